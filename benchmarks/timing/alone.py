"""Lanes in processes of their own, for what changes a whole process.

`python -m benchmarks.timing.alone ROW CONTENDER` serves one: a number of
cycles on a line of its input is a turn, and their seconds are a line of its
output.
"""

import json
import os
import subprocess
import sys
import tempfile

from benchmarks.timing.lane import Lane, LaneFailed
from benchmarks.timing.process import ROOT, last_words


class ApartLane:
    """A `Lane` in a process of its own, see there.

    Args:
        case: The `Case`; the process makes it anew by its name.
        contender: The `Contender`, likewise.
    """

    def __init__(self, case, contender):
        self._errors = tempfile.TemporaryFile()
        # Importing takes its time, while others take their first turns.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, case.name, contender.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            text=True,
        )

    def take_turn(self, number):
        """Trains for some cycles; returns their seconds."""
        self.begin_turn(number)
        return self.end_turn()

    def begin_turn(self, number):
        """Begins a turn without waiting for its end."""
        try:
            self._process.stdin.write(f"{number}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # It has ended, and `end_turn` will find no answer.

    def end_turn(self):
        """Waits for the end of the turn; returns the seconds of its cycles."""
        line = self._process.stdout.readline()
        if not line:
            raise LaneFailed(f"the process ended: {last_words(self._errors)}")
        answer = json.loads(line)
        if "error" in answer:
            raise LaneFailed(answer["error"])
        return answer["seconds"]

    def close(self):
        """Ends the process."""
        with self._process, self._errors:
            try:
                self._process.communicate(timeout=60)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                self._process.kill()


def serve(row, name):
    """Serves the turns that the input asks for.

    Args:
        row: Name of the `Case`.
        name: Name of the `Contender`.
    """
    from benchmarks.compared.cases import case_of
    from benchmarks.compared.contenders import contender_of

    # What others print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lane = Lane(contender_of(name).trainer(case_of(row)))
    for line in sys.stdin:
        try:
            answer = {"seconds": lane.take_turn(int(line))}
        except LaneFailed as failure:
            answer = {"error": str(failure)}
        print(json.dumps(answer), file=answers, flush=True)
    lane.close()


if __name__ == "__main__":
    serve(*sys.argv[1:])
