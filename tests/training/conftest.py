"""What the tests of runs have in common."""

import pytest

from jax_seg.report import plots
from jax_seg.system.files import replacing

DRAWN = ("test_run.py", "test_image_runs.py")  # these look at the pictures of a run


@pytest.fixture(scope="module", autouse=True)
def _pictures_stay_blank(request):
    """Pictures are made but not rendered: that takes longer than training a tiny network."""

    def blank(figure, path):
        with replacing(path) as beside:
            beside.touch()
        plots.plt.close(figure)

    with pytest.MonkeyPatch.context() as patch:
        if request.path.name not in DRAWN:
            patch.setattr(plots, "_save", blank)
        yield
