"""When the schedules of a run's learning rate begin, restart and end, by its configuration."""

from typing import NamedTuple


class Clock(NamedTuple):
    """A schedule of the learning rate, until the next one begins.

    Attributes:
      first, end: its epochs, `end` excluded.
      fields: of the section `schedule`, with what its stage replaces.
      section: of the configuration that begins it: 'schedule' or 'stages.NAME.schedule'.
    """

    first: int
    end: int
    fields: dict
    section: str = "schedule"

    @property
    def warm(self):
        """The first epoch after the warm-up."""
        return self.first + self.fields["warmup_epochs"]

    @property
    def restarts(self):
        """The epochs in which another cycle of 'cosine_restarts' begins."""
        if self.fields["name"] != "cosine_restarts":
            return []
        found, cycle = [], self.fields["t_0"]
        epoch = self.warm + cycle
        while epoch < self.end:
            found.append(epoch)
            cycle *= self.fields["t_mult"]
            epoch += cycle
        return found


def clocks(stages, epochs, schedule):
    """The `Clock`s of a run, in order; one runs on through stages that define no schedule.

    Args:
      stages: {name: {'epochs': (first, last), 'schedule': entries that it replaces}}.
      epochs: of the run.
      schedule: fields of the section.
    """
    begun = [Clock(0, epochs, schedule)]
    for name, stage in sorted(stages.items(), key=lambda item: item[1]["epochs"]):
        if own := stage.get("schedule"):
            first = stage["epochs"][0]
            begun[-1] = begun[-1]._replace(end=first)
            begun.append(Clock(first, epochs, schedule | own, f"stages.{name}.schedule"))
    return [clock for clock in begun if clock.first < clock.end]
