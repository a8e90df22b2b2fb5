"""Train a DeepLabCut project on a movie whose marker is known: `python -m tests.deeplabcut_project FOLDER MOVIE TRUTH`.

Runs in DeepLabCut's environment, offline: the network begins with random weights. TRUTH is an .npz of `x` and `y` by
frame. Prints the project's folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jobs.torchvision_operators  # noqa: F401 - before DeepLabCut, which needs it

import cv2  # isort: skip
import deeplabcut
import numpy as np
import pandas as pd
import torch
import yaml
from deeplabcut.pose_estimation_pytorch.models import PoseModel

LABELLED, EPOCHS = 60, 60
SCORER, PART = "truth", "marker"
SMALL = {  # a network that a processor trains in some minutes
    "model.backbone.model_name": "resnet18",
    "model.backbone_output_channels": 512,
    "model.heads.bodypart.heatmap_config.channels": [512, 1],
    "model.heads.bodypart.locref_config.channels": [512, 2],
    "runner.scheduler.params.milestones": [40, 50],  # the last steps are small
    "runner.eval_interval": EPOCHS,  # else the first snapshot that misses nothing is the best, however coarse
    "data.train.crop_sampling": {"height": 128, "width": 128, "max_shift": 0.1, "method": "hybrid"},
}


def label(config: Path, movie: Path, truth: Path) -> None:
    """Leave labelled frames, spread over the movie, as the labelling program does."""
    known = np.load(truth)
    chosen = np.linspace(1, len(known["x"]) - 1, LABELLED).astype(int)
    folder = config.parent / "labeled-data" / movie.stem
    folder.mkdir(parents=True, exist_ok=True)
    file, rows = cv2.VideoCapture(str(movie)), []
    for frame in range(chosen[-1] + 1):
        image = file.read()[1]
        if frame in chosen:
            cv2.imwrite(str(folder / f"img{frame:04d}.png"), image)
            rows.append(("labeled-data", movie.stem, f"img{frame:04d}.png"))
    columns = pd.MultiIndex.from_product([[SCORER], [PART], ["x", "y"]], names=["scorer", "bodyparts", "coords"])
    places = np.stack((known["x"][chosen], known["y"][chosen]), axis=1)
    table = pd.DataFrame(places, index=pd.MultiIndex.from_tuples(rows), columns=columns)
    table.to_hdf(folder / f"CollectedData_{SCORER}.h5", key="df_with_missing", mode="w")
    table.to_csv(folder / f"CollectedData_{SCORER}.csv")


def main() -> None:
    """Carry out the command line."""
    folder, movie, truth = map(Path, sys.argv[1:])
    torch.manual_seed(1)
    made = deeplabcut.create_new_project(PART, SCORER, [str(movie)], working_directory=str(folder), copy_videos=True)
    config = Path(made)
    settings = yaml.safe_load(config.read_text())
    settings |= {"bodyparts": [PART], "skeleton": [], "TrainingFraction": [0.9], "default_net_type": "resnet_50"}
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    label(config, movie, truth)
    deeplabcut.create_training_dataset(str(config), Shuffles=[1], net_type="resnet_50", userfeedback=False)
    [network] = config.parent.glob("dlc-models-pytorch/**/train/pytorch_config.yaml")
    described = yaml.safe_load(network.read_text())
    for name, value in SMALL.items():
        *groups, key = name.split(".")
        group = described
        for each in groups:
            group = group[each]
        group[key] = value
    network.write_text(yaml.safe_dump(described, sort_keys=False))
    start = folder / "random.pt"
    torch.save({"model": PoseModel.build(described["model"], pretrained_backbone=False).state_dict()}, start)
    deeplabcut.train_network(
        str(config), shuffle=1, device="cpu", snapshot_path=str(start), epochs=EPOCHS, batch_size=8, save_epochs=EPOCHS
    )
    print(config.parent)


if __name__ == "__main__":
    main()
