"""The losses of validations in the report: curves, and their figures."""

from collections.abc import Iterable, Sequence

from cogtune.evaluation.report.report_data import LossPoint, ValidationCurve
from cogtune.evaluation.report.summary_text import RISE
from cogtune.work.training_log import AVERAGE_WEIGHTS, RAW_WEIGHTS, Curve, Row, curves


def validation_curves(log: Iterable[Row]) -> list[ValidationCurve]:
    """The curves of the validations in a log that name their draws; none for logs of earlier versions."""
    every = [curve for curve in curves(log) if curve.rows[-1].draws]
    trained = next((curve for curve in every if curve.trained_on), None)
    return [_of(curve, trained) for curve in every]


def _of(curve: Curve, trained: Curve | None) -> ValidationCurve:
    rows, gap = curve.comparable, None
    if trained is not None and not curve.trained_on and curve.weights == RAW_WEIGHTS:
        gap = rows[-1].validation_loss - trained.rows[-1].validation_loss
    return ValidationCurve(
        clips="training clips" if curve.trained_on else str(curve.set),
        weights="average" if curve.weights == AVERAGE_WEIGHTS else "raw",
        trained_on=curve.trained_on,
        points=[LossPoint(row.step, row.validation_loss) for row in rows],
        quarters=rows[-1].bands or [],
        gap=gap,
    )


def overfitting(every: Sequence[ValidationCurve]) -> str:
    """Says that the loss of a validation set rose while that of training clips, with the same draws and raw weights, fell;
    "" if none did."""
    trained = next((curve for curve in every if curve.trained_on), None)
    if trained is None:
        return ""
    at = {point.step: point.loss for point in trained.points}
    for curve in every:
        best, last = curve.lowest, curve.points[-1]
        if (
            curve.trained_on
            or curve.weights != "raw"
            or len(curve.points) < 3
            or not {best.step, last.step} <= at.keys()
        ):
            continue
        if last.loss > best.loss * (1 + RISE) and at[last.step] < at[best.step]:
            return (
                f"The validation loss of {curve.clips} was lowest at step {best.step:,} ({best.loss:.3f}) and rose to "
                f"{last.loss:.3f} by step {last.step:,}, while that of training clips, with the same timesteps, fell from "
                f"{at[best.step]:.3f} to {at[last.step]:.3f}: from step {best.step:,} on, the model learned its training clips "
                f"by heart. Fewer steps, more clips or a lower learning rate prevent that."
            )
    return ""
