"""Import this before a library that needs torchvision (suite2p through cellpose, DeepLabCut).

torchvision's build for CUDA does not import beside a torch for the CPU: its compiled operators do not load, and it
describes two that are then not there. Once they are declared it imports; nobody here calls them.
"""

from __future__ import annotations

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    DECLARED = torch.library.Library("torchvision", "DEF")  # kept: they go with it
    for operator in ("nms", "qnms"):
        DECLARED.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401
