from types import SimpleNamespace

import numpy as np
import pytest

from pruneft.plot import trade_off


def _row(eps, training, clean, attacked, attack=0.1):
    return SimpleNamespace(
        eps=eps, training=training, clean=clean, attacked=attacked, certified=attacked - 0.1, attack=attack
    )


ROWS = [_row(0.2, "convex", 0.8, 0.7), _row(0.0, "convex", 0.9, 0.5), _row(0.0, "AdamW", 0.95, 0.4)]


def test_accuracies_are_drawn_over_the_radius_and_against_each_other():
    drawn = trade_off(ROWS)
    x, clean = drawn.lines["convex, clean"].get_data()
    np.testing.assert_array_equal(x, [0.0, 0.2])  # in order, whatever the order of the rows
    np.testing.assert_array_equal(clean, [0.9, 0.8])
    np.testing.assert_allclose(drawn.lines["convex, certified"].get_ydata(), [0.4, 0.6])
    np.testing.assert_array_equal(drawn.lines["convex"].get_data(), [[0.9, 0.8], [0.5, 0.7]])
    assert drawn.panels[1].get_title() == "attack of 0.1"
    assert {text.get_text() for text in drawn.panels[1].get_legend().get_texts()} == {"convex", "AdamW"}


def test_attacks_of_several_radii_are_said_to_be_those_of_training():
    rows = [_row(eps, "convex", 0.9, 0.8, attack=eps) for eps in (0.0, 0.2)]
    assert trade_off(rows).panels[1].get_title() == "attack of the radius of training"


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        trade_off([])
