"""The colours of classes, the same on the page and in pictures."""

# First Okabe and Ito's, which colour-blind eyes tell apart, without the two of errors on the page.
OF_CLASSES = (
    (0, 178, 130),  # green
    (204, 121, 167),  # purple
    (240, 228, 66),  # yellow
    (213, 94, 0),  # vermilion
    (0, 114, 178),  # blue
    (140, 200, 60),  # lime
    (130, 85, 60),  # brown
    (250, 160, 190),  # pink
    (110, 70, 180),  # violet
    (170, 170, 170),  # grey
)


def of_classes(names):
    """One (red, green, blue) in 0..255 for each name; from the eleventh on they repeat."""
    return [OF_CLASSES[number % len(OF_CLASSES)] for number in range(len(names))]
