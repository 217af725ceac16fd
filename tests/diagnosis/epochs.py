"""Epochs as `evidence.by_epoch` gives them, without a run."""


def epoch(number, loss=0.5, *, error=0.01, rate=0.01, norm=1.0, clipped=0.0, stage="run", **terms):
    """One epoch: training and validation have the same loss."""
    train = {
        "step": 20 * (number + 1),
        "loss": loss,
        "learning_rate": rate,
        "gradient_norm": norm,
        "clipped_share": clipped,
        "stage": stage,
        **terms,
    }
    validation = {"loss": loss, "standard_error": error}
    return {"epoch": number, "decisions": [], "train": train, "validation": validation}


def decided(one, *decisions):
    """Add decisions to an epoch."""
    one["decisions"] += decisions


def rollback(number, loss, *, best, reason="plateau"):
    """The decision to return to earlier weights."""
    return {
        "kind": "rollback",
        "epoch": number,
        "reason": reason,
        "best_loss": best,
        "val_loss": loss,
    }
