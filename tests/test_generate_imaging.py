"""The movie with planted cells."""

from pathlib import Path

import numpy as np
import pytest

from jobs.generate_imaging import CLOSEST_PX, PHYSICS, SIZES, write_imaging


@pytest.mark.parametrize("physics", ["A", "B"])
def test_the_same_seed_writes_the_same_movie_and_the_movie_holds_every_volume(tmp_path: Path, physics: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    movies = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        truth = write_imaging(tmp_path / name, SIZES["ci"], PHYSICS[physics], 1, 0)
        movies.append(tifffile.imread(tmp_path / name / "mesoscope_000001.tiff"))
    assert movies[0].shape == (600, 128, 128)
    assert movies[0].dtype == np.int16
    assert np.array_equal(*movies)
    for plane in range(2):
        at = np.stack([truth["y"], truth["x"]], 1)[truth["plane"] == plane]
        apart = np.hypot(*(at[:, None] - at[None]).T)
        assert apart[~np.eye(len(at), dtype=bool)].min() >= CLOSEST_PX
