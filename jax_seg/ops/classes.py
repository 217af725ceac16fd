"""What the voxels of an encoded label are.

Label *files* have values of their own; `data/labels.py` turns them into these. Classes count from
0 upwards, so that the value of what has no class stays free of them.
"""

BACKGROUND, FOREGROUND = 0, 1
MASKED = 255  # unlabeled, or outside of the volume: no part of losses, sampling and scores
