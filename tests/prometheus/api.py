"""A Prometheus that has watched a whole run: its answers over HTTP, of all the time since it began."""

import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sources import Panel, Query, variables

LIMIT = 30
#: What Grafana asks for at most, on a wide panel.
POINTS = 1000


@dataclass(frozen=True)
class Line:
    labels: dict[str, str]
    #: Times and values; some values may be no numbers.
    points: list[tuple[float, float]]

    @property
    def figures(self) -> list[tuple[float, float]]:
        return [(at, value) for at, value in self.points if math.isfinite(value)]


class Prometheus:
    def __init__(self, address: str) -> None:
        self.address = address
        self.begin = self.get("status/tsdb")["headStats"]["minTime"] / 1000
        self.end = time.time()
        intervals = [target["scrapeInterval"] for target in self.targets()]
        self.scrape = int(intervals[0].removesuffix("s"))
        #: As Grafana chooses it for a time that is so long.
        self.step = max(self.scrape, math.ceil((self.end - self.begin) / POINTS))

    @classmethod
    def that_has_seen_all(cls, address: str) -> "Prometheus":
        """Once it has read all figures twice more, as its last rates are of those."""
        begun, waited = time.time(), cls(address)
        while waited.oldest_scrape() < begun + waited.scrape:
            assert time.time() < begun + LIMIT, "it scrapes no more"
            time.sleep(0.2)
        return cls(address)

    def oldest_scrape(self) -> float:
        return min(datetime.fromisoformat(it["lastScrape"]).timestamp() for it in self.targets())

    def text(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.address}/{path}", timeout=LIMIT) as answer:
            return answer.read().decode()

    def get(self, path: str, **parameters: Any) -> Any:
        words = urllib.parse.urlencode({key.replace("match", "match[]"): it for key, it in parameters.items()})
        try:
            return json.loads(self.text(f"api/v1/{path}?{words}"))["data"]
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{parameters}: {refused.read().decode()}") from refused

    def targets(self) -> list[dict[str, Any]]:
        return self.get("targets", state="active")["activeTargets"]

    def series(self, selector: str) -> list[dict[str, str]]:
        """The labels of all that there were."""
        return self.get("series", match=selector, start=self.begin, end=self.end)

    def over_run(self, expression: str) -> list[Line]:
        made = self.get("query_range", query=expression, start=self.begin, end=self.end, step=self.step)
        return [Line(it["metric"], [(at, float(value)) for at, value in it["values"]]) for it in made["result"]]

    def asked(self, panel: Panel, query: Query) -> list[Line]:
        """A panel's query, over the run, as Grafana asks it when all of each variable is chosen."""
        chosen = {}
        for label, metric in variables(panel.dashboard).items():
            values = {it[label] for it in self.series(metric)}
            chosen[label] = f"({'|'.join(sorted(values))})"
        seconds = round(self.end - self.begin)
        return self.over_run(query.substituted(self.step, self.scrape, seconds, chosen))
