import errno
import os
import subprocess
import sys

import pytest

from pruneft.plot import new_figure, save
from pruneft.plot._style import axes_or_new


def _picture():
    figure = new_figure()
    figure.subplots().plot([0, 1], [1, 0])
    return figure


def test_importing_the_plots_does_not_import_matplotlib():
    code = "import sys, pruneft.plot; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_matplotlib_the_error_says_how_to_install_it():
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.figure'] = None\n"
        "from pruneft.plot import new_figure\n"
        "try: new_figure()\n"
        "except ImportError as e: sys.exit(0 if \"python -m pip install 'pruneft[cli]'\" in str(e) else 2)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_drawing_leaves_pyplot_and_the_global_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    _picture()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["figure.png", "figure.pdf"])
def test_the_same_data_give_the_same_bytes(tmp_path, name):
    first = save(_picture(), tmp_path / name).read_bytes()
    second = save(_picture(), tmp_path / f"again_{name}").read_bytes()
    assert first == second


def test_the_picture_names_its_software_and_resolution(tmp_path):
    content = save(_picture(), tmp_path / "figure.png").read_bytes()
    assert b"Software\x00pruneft" in content
    # pHYs, in dots per metre: 160 per inch.
    assert round(160 / 0.0254).to_bytes(4, "big") in content


def test_a_full_disk_leaves_the_old_figure_and_nothing_beside_it(tmp_path, monkeypatch):
    target = tmp_path / "figure.png"
    target.write_bytes(b"old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not write the figure .*No space left") as caught:
        save(_picture(), target)
    assert "\n" not in str(caught.value)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OSError, match="could not write the figure"):
        save(_picture(), tmp_path / "nowhere" / "figure.png")


def test_an_unknown_ending_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"\.png or \.pdf"):
        save(_picture(), tmp_path / "figure.jpeg")
    assert list(tmp_path.iterdir()) == []


def test_the_wrong_number_of_axes_is_refused():
    with pytest.raises(ValueError, match="expected 2, got 3"):
        axes_or_new(new_figure().subplots(1, 3), 1, 2, (1.0, 1.0))
