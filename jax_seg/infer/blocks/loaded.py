"""A job in one process, and what a process is asked to compute."""

from typing import NamedTuple

from jax_seg.infer.blocks import passes, records


class Task(NamedTuple):
    """One block of a pass, and the digest of what it is made from."""

    number: int
    index: tuple
    sources: str

    def __str__(self):
        return f"block-{self.number}-{records.name_of(self.index)}"


class Loaded:
    """A job in one process: its networks are loaded when a block needs them, once."""

    def __init__(self, job):
        self.job = job
        self._segment = None
        self.passes = passes.plan(job, self._run)

    def _run(self, part):
        if self._segment is None:
            self._segment = self.job.load()
        return self._segment(part)

    def __call__(self, task):
        """Compute a block and write its record, which is returned.

        A worker that died may have finished it, and is only then asked for again.
        """
        one = self.passes[task.number]
        folder = f"{self.job.records}/{one.name}"
        found = records.read(folder, task.index, self.job.digest)
        if records.is_done(found, task.sources, lambda: one.output.record(task.index)):
            return found
        facts = one.run(task.index)
        written = one.output.record(task.index)
        if written is None:
            raise OSError(f"{one.output} lost block {task.index} while it was written.")
        content = {"settings": self.job.digest, **written, "sources": task.sources, **facts}
        records.write(folder, task.index, content)
        return content
