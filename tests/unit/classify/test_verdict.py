from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from biollm.classify.compare import compare_rows
from biollm.classify.rows import AtHand, RowPlan, ScoredRow, adapted_set, plan_rows
from biollm.classify.verdict import judge

_SPREAD = np.linspace(-0.02, 0.02, 101)


def _row(
    name: str, features: tuple[str, ...], auroc: float, *, head: str = "logistic", baseline: bool = False, tilt: float = 1.0
) -> ScoredRow:
    """A row whose resamples lie within 0.02 of its AUROC. Rows of one tilt vary together, rows of opposite tilt against each other."""
    resampled = auroc + tilt * _SPREAD
    plan = RowPlan(name, name.replace("_", " + "), features, head, baseline)  # type: ignore[arg-type]
    return ScoredRow(plan, "binary", "", auroc, {"auroc": auroc, "auprc": auroc}, {"auroc": resampled, "auprc": resampled})


def _rows(base: float, kmers: float, adapted: float) -> list[ScoredRow]:
    return [
        _row("4-mers_logistic", ("kmers",), kmers, baseline=True, tilt=-1),
        _row("base_logistic", ("base",), base, baseline=True, tilt=-1),
        _row("adapted_logistic", ("pretrain",), adapted),
    ]


@pytest.mark.parametrize(
    ("base", "kmers", "adapted", "parts", "phrases"),
    [
        (
            0.6,
            0.7,
            0.9,
            ("better", "better"),
            [
                "Adaptation helped",
                "by 0.300 (95 % interval 0.262 to 0.338)",
                "; and ",
                "best in validation, beats the baseline that was best there, 4-mers + logistic",
            ],
        ),
        (
            0.6,
            0.867,
            0.7,
            ("better", "worse"),
            ["Adaptation helped", "; but the baseline 4-mers + logistic (0.867) still beats", "by 0.167 (95 % "],
        ),
        (
            0.6,
            0.7,
            0.7,
            ("better", "unclear"),
            ["Adaptation helped", "; but ", "not clearly apart", "+0.000", "−0.038 to +0.038, which includes zero"],
        ),
        (0.7, 0.6, 0.7, ("unclear", "unclear"), ["No clear effect of the adaptation", "; and ", "which includes zero"]),
        (0.7, 0.8, 0.7, ("unclear", "worse"), ["No clear effect", "; and the baseline 4-mers + logistic (0.800) still beats"]),
        (
            0.9,
            0.6,
            0.7,
            ("worse", "worse"),
            ["Adaptation hurt", "lowers AUROC below base + logistic by 0.200 (95 % interval 0.162 to 0.238)"],
        ),
    ],
)
def test_the_verdict_says_what_the_intervals_say(
    base: float, kmers: float, adapted: float, parts: tuple[str, str], phrases: list[str]
) -> None:
    verdict = judge(compare_rows(_rows(base, kmers, adapted)))
    assert (verdict.adaptation, verdict.against_baselines) == parts
    for phrase in phrases:
        assert phrase in verdict.sentence


def test_a_fine_tuned_model_can_win_where_the_embeddings_did_not_change() -> None:
    rows = [*_rows(0.7, 0.6, 0.7), _row("finetune_lora", ("lora",), 0.9, head="none")]
    verdict = judge(compare_rows(rows))
    assert (verdict.adaptation, verdict.against_baselines) == ("unclear", "better")
    assert "; but finetune + lora (0.900), the adapted row that was best in validation, beats" in verdict.sentence


def test_without_an_adapted_model_nothing_is_claimed() -> None:
    verdict = judge(compare_rows(_rows(0.7, 0.6, 0.7)[:2]))
    assert verdict.adaptation == verdict.against_baselines == "not tested"
    assert "nothing to judge" in verdict.sentence


def test_without_the_base_model_only_the_baselines_are_judged() -> None:
    rows = _rows(0.7, 0.6, 0.8)
    verdict = judge(compare_rows([rows[0], rows[2]]))
    assert (verdict.adaptation, verdict.against_baselines) == ("not tested", "better")
    assert "the untouched base model was not scored" in verdict.sentence


def test_each_question_is_answered_under_one_head_chosen_for_either_side() -> None:
    rows = [
        _row("kmers_logistic", ("kmers",), 0.7, baseline=True),
        _row("base_logistic", ("base",), 0.5, baseline=True),
        _row("base_xgboost", ("base",), 0.85, head="xgboost", baseline=True),
        _row("expand_logistic", ("expand",), 0.6),
        _row("pretrain_logistic", ("pretrain",), 0.8),
        _row("pretrain_xgboost", ("pretrain",), 0.75, head="xgboost"),
        _row("pretrain_without_tracks_logistic", ("pretrain_without_tracks",), 0.78),
        _row("pretrain_kmers_logistic", ("pretrain", "kmers"), 0.82),
    ]
    pairs = {c.name: (c.row.plan.name, c.reference.plan.name) for c in compare_rows(rows)}
    assert pairs == {
        "best_against_baseline": ("pretrain_kmers_logistic", "base_xgboost"),
        "adapted_against_base": ("pretrain_xgboost", "base_xgboost"),
        "adapted_against_expanded": ("pretrain_logistic", "expand_logistic"),
        "tracks": ("pretrain_logistic", "pretrain_without_tracks_logistic"),
        "added_to_kmers": ("pretrain_kmers_logistic", "kmers_logistic"),
    }


def test_the_best_row_is_chosen_by_validation_and_not_by_test() -> None:
    lucky = _row("lucky_logistic", ("expand",), 0.95)
    rows = [*_rows(0.6, 0.7, 0.9), replace(lucky, validation=0.5)]
    assert compare_rows(rows)[0].row.plan.name == "adapted_logistic"


def test_rows_are_planned_with_baselines_first_and_ablations_last() -> None:
    at_hand = AtHand("binary", {"pretrain_without_tracks": "W", "pretrain": "P", "base": "B"}, {"kmers": "4-mers"}, ["output_layer"])
    plans = plan_rows(at_hand, ["xgboost"], with_kmers=True)
    assert [(p.title, p.is_baseline) for p in plans] == [
        ("majority class", True),
        ("4-mers + logistic", True),
        ("4-mers + XGBoost", True),
        ("B + XGBoost", True),
        ("P + XGBoost", False),
        ("W + XGBoost", False),
        ("P + 4-mers + XGBoost", False),
        ("fine-tuned, output layer", False),
    ]
    assert len({p.name for p in plans}) == len(plans)


def test_tracks_bring_their_own_baselines_and_are_added_to_the_adapted_model() -> None:
    blocks = {"kmers": "4-mers", "tracks": "tracks", "positional": "letters by position", "random": "random embeddings"}
    plans = plan_rows(AtHand("binary", {"pretrain": "P", "base": "B", "fused_gate": "G"}, blocks, []), ["logistic"], with_kmers=False)
    assert {p.name: p.is_baseline for p in plans} == {
        "majority": True, "kmers_logistic": True, "positional_logistic": True, "tracks_logistic": True, "kmers_tracks_logistic": True,
        "random_logistic": True, "base_logistic": True, "pretrain_logistic": False, "fused_gate_logistic": False,
        "pretrain_tracks_logistic": False,
    }  # fmt: skip


def test_with_tracks_the_best_row_is_held_against_each_single_source() -> None:
    rows = [
        *_rows(0.6, 0.7, 0.9),
        _row("tracks_logistic", ("tracks",), 0.95, baseline=True, tilt=-1),
        _row("shuffled_logistic", ("pretrain_shuffled_tracks",), 0.99),
    ]
    compared = {c.name: c for c in compare_rows(rows)}
    assert compared["best_against_tracks"].row.plan.name == "adapted_logistic", "a control is no model"
    verdict = judge(list(compared.values()))
    assert verdict.parts() == {
        "adaptation": "better", "against_baselines": "worse", "against_tracks": "worse", "against_kmers": "better",
    }  # fmt: skip
    assert "the baseline tracks + logistic (0.950) still beats" in verdict.sentence
    assert "falls short of tracks" not in verdict.sentence, "which is not told again"
    assert ". The best adapted row beats 4-mers + logistic (0.700) by 0.200" in verdict.sentence
    alike = [(c.name, c.row.plan.head, c.reference.plan.head) for c in compared.values() if "same head" in c.question]
    assert alike == [
        ("adapted_against_tracks_logistic", "logistic", "logistic"),
        ("adapted_against_kmers_logistic", "logistic", "logistic"),
    ]


def test_where_a_baseline_wins_the_next_sentences_are_still_about_the_adapted_row() -> None:
    rows = [*_rows(0.95, 0.7, 0.6), _row("tracks_logistic", ("tracks",), 0.6, baseline=True, tilt=-1)]
    sentence = judge(compare_rows(rows)).sentence
    assert "base + logistic (0.950) still beats adapted + logistic (0.600), the adapted row that was best in validation, by" in sentence
    assert ". The best adapted row is not clearly apart from tracks + logistic (0.600): +0.000 (" in sentence
    assert ". The best adapted row falls short of 4-mers + logistic (0.700) by 0.100 (" in sentence
    assert "It " not in sentence


def test_of_folds_the_best_row_is_said_to_be_chosen_on_inner_folds() -> None:
    for adapted, said in ((0.9, "beats"), (0.7, "is not clearly apart from"), (0.5, "")):
        rows = [replace(row, folds=[{"fold": "fold 1"}, {"fold": "fold 2"}]) for row in _rows(0.6, 0.7, adapted)]
        sentence = judge(compare_rows(rows)).sentence
        assert f"({adapted:.3f}), the adapted row that was best on inner folds, {said}" in sentence
        assert "validation" not in sentence


def test_numbers_below_zero_have_a_minus_sign_wherever_they_stand() -> None:
    sentence = judge(compare_rows(_rows(0.6, -0.029, -0.5))).sentence
    assert "adapted + logistic (−0.500)" in sentence
    sentence = judge(compare_rows(_rows(-0.1, -0.029, 0.5))).sentence
    assert "4-mers + logistic (−0.029)" in sentence
    assert "-0" not in sentence


def test_the_adapted_set_is_the_last_step_of_the_adaptation() -> None:
    assert adapted_set(["expand", "base"]) == "expand"
    assert adapted_set(["base"]) is None
    assert adapted_set([]) is None
