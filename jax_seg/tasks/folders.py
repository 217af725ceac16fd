"""Score a folder of predictions against a folder of labels, file by file."""

from jax_seg.data.names import require_two_folders


def score_folders(predictions, labels, find, what, score):
    """Score the files of two folders that have the same names, extensions aside.

    Args:
      predictions, labels: folders.
      find: folder -> list of what has an 'id' and the path 'image'.
      what: nouns for a prediction and a label, as ('map', 'mask').
      score: (path of a prediction, path of its label) -> scores.

    Yields:
      (what `find` gives for the prediction, or else for the label; what `score` returns, or the
      error that it raised), for every id of either folder in order.

    Raises:
      FileNotFoundError, ValueError: a folder is missing, is empty, equals the other, or has an id
        twice.
    """
    require_two_folders(predictions, labels, [f"{noun}s" for noun in what])
    predicted, labelled = ({one.id: one for one in find(f)} for f in (predictions, labels))

    def scored(prediction, label):
        if prediction is None:
            raise FileNotFoundError(
                f"{label.image} has no {what[0]} in {predictions}: predict it too."
            )
        if label is None:
            raise FileNotFoundError(
                f"{prediction.image} has no {what[1]} in {labels}: add it, or move this file away."
            )
        return score(prediction.image, label.image)

    for name in sorted(predicted.keys() | labelled.keys()):
        prediction, label = predicted.get(name), labelled.get(name)
        try:
            result = scored(prediction, label)
        except (ValueError, OSError) as error:
            result = error
        yield prediction or label, result
