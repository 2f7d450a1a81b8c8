"""The table that a night ends with."""

from __future__ import annotations

from nights import DATASET, checkpoint, decision, model, report

from ganpipe.night import Night
from ganpipe.settings import Settings
from ganpipe.summary import markdown, score_rows, summary
from ganpipe.tables import INTERVAL, INTERVAL_NOTE

MADE = Night(
    run_id="tiny-run", dataset=DATASET, checkpoint=checkpoint(), report=report(), model=model(), decision=decision(),
    grid="file:///grid.png", report_picture="file:///report.png",
)  # fmt: skip
CANDIDATE = MADE.decision.candidate_scores


def test_a_score_stands_beside_its_interval_and_a_floor_of_so_many_images(settings: Settings) -> None:
    assert CANDIDATE is not None
    measured = CANDIDATE.model_copy(
        update={
            "scores": {"fid_domain": 5.0, "recall_domain": 0.5},
            "intervals": {"fid_domain": (4.4567, 5.1234)},
        }
    )
    night = MADE.model_copy(update={"decision": MADE.decision.model_copy(update={"candidate_scores": measured})})
    assert score_rows(night) == [
        ["metric", "model", INTERVAL, "floor (n=4)", "champion"],
        ["fid_domain", "5", "[4.46, 5.12]", "1.5", "-"],
        ["recall_domain", "0.5", "-", "-", "-"],
    ]
    assert INTERVAL_NOTE in summary(night, settings)
    assert "| fid_domain | 5 | [4.46, 5.12] | 1.5 | - |" in markdown(night)


def test_scores_of_before_have_no_such_column(settings: Settings) -> None:
    assert score_rows(MADE)[0] == ["metric", "model", "floor (n=4)", "champion"]
    assert INTERVAL_NOTE not in summary(MADE, settings) + markdown(MADE)
