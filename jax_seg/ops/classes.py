"""The classes of an encoded label.

Label *files* have values of their own; `data/labels.py` turns them into these. Classes count up
from 0, so they never reach the value of voxels without a class.
"""

BACKGROUND, FOREGROUND = 0, 1
MASKED = 255  # unlabelled or outside the volume: excluded from losses, sampling and scores
