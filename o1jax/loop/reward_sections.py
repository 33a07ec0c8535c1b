"""The part of a report that speaks of a reward model.

In: the results of a TrainReward stage. Out: a section as inspect/report.py has them.
"""

from typing import Any

LEARNED = {
    "steps": "whether each step is right",
    "goals": "whether each step is right, under every goal",
    "outcome": "whether the answer is right",
    "pairs": "which of two answers is better",
    "demonstrations": "worked solutions against the policy's own",
}


def section(name: str, results: dict[str, Any]) -> dict[str, Any]:
    """Ranking, calibration and first errors, with the reliability plot."""
    judged = results["judged"]
    interval = judged.get("step_auc_interval", [None, None])
    p, y, count = (list(part) for part in zip(*judged["reliability"]))
    row = [
        LEARNED[results["learns"]],
        results["readout"],
        results["labels"],
        [judged["step_auc"], *interval],
        judged["ece"],
        judged["brier"],
        judged["first_error_f1"],
        judged["accuracy_on_wrong"],
        judged["accuracy_on_right"],
    ]
    return {
        "name": f"Reward model: {name}",
        "text": f"Judged on {judged['steps']} steps of {judged['traces']} held-out "
        "responses by the exact oracle, up to each one's first error. AUC: chance that "
        "a right step scores above a wrong one, 95 % interval over responses. First "
        "error: found exactly in responses that have one, none claimed in those that "
        "have none, and the harmonic mean of the two (F1).",
        "table": {
            "columns": [
                "learned",
                "read-out",
                "labels",
                "step AUC",
                "ECE",
                "Brier",
                "first-error F1",
                "found",
                "none claimed",
            ],
            "rows": [row],
        },
        "figure": {
            "kind": "reliability",
            "title": f"Calibration of {name}",
            "series": [
                {"label": name, "x": p, "y": y, "count": count, "ece": judged["ece"]}
            ],
        },
    }
