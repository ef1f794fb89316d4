"""Playing a stream through a gateway's inference port, as its clients would.

One thread per gateway keeps one HTTP connection, asks for predictions at a steady
pace, and sends the true label of every n-th record back. A request that does not
get a 200 is a failed request and counted as one, also when asking again succeeds.
"""

from __future__ import annotations

import http.client
import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from fedge.tasks.glyph_stream import Rows

log = logging.getLogger(__name__)


NextRows = Callable[[int, int], Rows]
"""`(first_row, count)` -> that piece of the stream."""
Label = tuple[str, int]
"""Record id and class index."""

LABELS_PER_REQUEST = 200
MOST_WAITING = 2000
"""Labels that wait for a gateway without room for them; beyond, the oldest are given up."""


class NoRoomError(OSError):
    """The gateway takes no labels for now.

    Attributes:
        retry_after_s: after which it asks to be asked again.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InferenceClient:
    """The smallest client of one gateway's Open Inference Protocol port."""

    def __init__(self, port: int, family: str, input_name: str, classes: tuple[str, ...]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._path = f"/v2/models/{family}/infer"
        self._input_name, self._classes = input_name, classes

    def infer(self, inputs: npt.NDArray[np.float32]) -> tuple[list[str], npt.NDArray[np.int64]]:
        """Record ids and predicted class indices of a batch; raises OSError where it failed."""
        body = {
            "inputs": [
                {
                    "name": self._input_name,
                    "shape": list(inputs.shape),
                    "datatype": "FP32",
                    "data": inputs.ravel().tolist(),
                }
            ]
        }
        answer = self._post(self._path, body)
        outputs = {output["name"]: output for output in answer["outputs"]}
        predictions = np.array(outputs["class"]["data"], dtype=np.int64)
        return list(answer["parameters"]["fedge_record_ids"]), predictions

    def feedback(self, labels: Sequence[Label]) -> None:
        """Send true labels back.

        Raises:
            NoRoomError: none was taken, and they may be sent again later.
            OSError: it failed.
        """
        entries = [{"id": record, "label": self._classes[label]} for record, label in labels]
        self._post("/fedge/v1/feedback", {"labels": entries})

    def is_ready(self) -> bool:
        """Whether the port answers that the model is ready."""
        probe = http.client.HTTPConnection(self._connection.host, self._connection.port, timeout=2)
        try:
            probe.request("GET", "/v2/health/ready")
            return probe.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            probe.close()

    def close(self) -> None:
        self._connection.close()

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            self._connection.request(
                "POST", path, json.dumps(body), {"Content-Type": "application/json"}
            )
            response = self._connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise OSError(f"{path}: {error!r}") from error
        if response.status != 200:
            message = f"{path}: HTTP {response.status}: {data[:200]!r}"
            wait = response.getheader("Retry-After", "")
            if response.status == 503 and wait.isdigit():
                raise NoRoomError(message, float(wait))
            raise OSError(message)
        return dict(json.loads(data))


class LabelPost:
    """Sends labels back, and keeps them for later while the gateway has no room for them.

    A gateway that lags behind its stream refuses labels. That is logged when it begins and when
    it is over, and it is left alone for as long as it asks.

    Args:
        send: sends some labels.
        clock: seconds that run on evenly.

    Attributes:
        waiting: labels that were not taken yet.
    """

    def __init__(
        self, send: Callable[[Sequence[Label]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._clock = send, clock
        self.waiting: deque[Label] = deque(maxlen=MOST_WAITING)
        self._not_before, self._refused = -math.inf, False

    def give(self, labels: Sequence[Label]) -> None:
        """Send these after those that wait, as many as one request takes.

        Raises:
            OSError: one request failed. What there was no room for waits, all else is given up.
        """
        self.waiting.extend(labels)
        if not self.waiting or self._clock() < self._not_before:
            return
        batch = list(islice(self.waiting, LABELS_PER_REQUEST))
        try:
            self._send(batch)
        except NoRoomError as error:
            self._not_before = self._clock() + error.retry_after_s
            if not self._refused:
                log.warning("labels wait: %s", error)
            self._refused = True
            raise
        except OSError as error:
            self._drop(len(batch))
            log.error("feedback failed: %s", error)
            raise
        self._drop(len(batch))
        if self._refused:
            log.warning("labels are taken again")
        self._refused = False

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self.waiting.popleft()


class Player:
    """Plays one gateway's stream until it is told to stop.

    Args:
        next_rows: the stream.
        rows_per_s, rows_per_request: pace.
        label_every: every n-th record's label is fed back.
    """

    def __init__(
        self,
        client: InferenceClient,
        next_rows: NextRows,
        *,
        rows_per_s: float,
        rows_per_request: int,
        label_every: int,
    ) -> None:
        self._client, self._next_rows = client, next_rows
        self._labels = LabelPost(client.feedback)
        self._batch, self._label_every = rows_per_request, label_every
        self._pause_s = rows_per_request / rows_per_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, name="player", daemon=True)
        self.rows_served = 0
        self.correct: list[bool] = []
        self.failed: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the play, also one that never began."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._client.close()

    def _play(self) -> None:
        row, due = 0, time.monotonic()
        while not self._stop.is_set():
            # What failed is asked again, so that row and arrival slot stay one number.
            if self._request(self._next_rows(row, self._batch), row):
                row += self._batch
            # Behind schedule it plays on at once, but never faster than the pace allows later.
            due = max(due + self._pause_s, time.monotonic() - 1.0)
            self._stop.wait(max(0.0, due - time.monotonic()))

    def _request(self, rows: Rows, first_row: int) -> bool:
        try:
            records, predictions = self._client.infer(rows.inputs)
        except OSError as error:
            self.failed.append(str(error))
            log.error("request failed: %s", error)
            return False
        self.rows_served += len(records)
        self.correct.extend((predictions == rows.labels).tolist())
        # The share is public and fixed: it follows the row number, never what was predicted.
        chosen = [i for i in range(len(records)) if (first_row + i) % self._label_every == 0]
        try:
            self._labels.give([(records[i], int(rows.labels[i])) for i in chosen])
        except OSError as error:
            self.failed.append(str(error))
        return True
