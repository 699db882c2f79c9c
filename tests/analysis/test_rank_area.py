"""AURAC against its closed forms."""

import numpy as np
import pytest

from analysis.stats.rank_area import rank_weights


def test_one_rank_is_the_score_itself():
    assert rank_weights([4]).tolist() == [1.0]


def test_powers_of_two_count_alike_but_for_the_ends():
    assert rank_weights([1, 2, 4, 8, 16]) == pytest.approx([1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8])


@pytest.mark.parametrize("ranks", [[1, 2], [2, 3, 8], [1, 5, 6, 64]])
def test_a_score_that_is_linear_in_log2_of_the_rank_is_the_mean_of_its_ends(ranks):
    scores = 0.3 + 0.07 * np.log2(ranks)
    assert rank_weights(ranks) @ scores == pytest.approx((scores[0] + scores[-1]) / 2)
    assert rank_weights(ranks).sum() == pytest.approx(1)
    assert (rank_weights(ranks) > 0).all()
