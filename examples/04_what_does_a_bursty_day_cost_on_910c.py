"""What does a bursty day cost on Ascend 910C, and whom does it make wait, with each way of scaling?"""

import sys
from pathlib import Path

from dashboard.figures.scaling import scaling_chart
from simulator import Scenario, simulate
from simulator.errors import MoesimError

# A compressed day: 24 hours of 30 s each, with bursts at nine and at six; see the comment in the file.
DAY = Scenario.load(Path(__file__).with_name("elastic-day-ascend-910c.toml"))
WAYS = {
    "cold restart": ("elastic.mechanism=cold_restart",),
    "more instances": ("elastic.mechanism=horizontal",),
    "new devices": ("elastic.mechanism=vertical_new",),
    "same devices": ("elastic.mechanism=colocated",),
    "elastic": ("elastic.mechanism=elastic",),
    "elastic, at once": ("elastic.mechanism=elastic", "elastic.handover=ready"),
    "at no cost": ("elastic.mechanism=ideal",),
}

runs = {}
print("way of scaling      in time   ready in s   down s   devices   at most   device-hours")
for name, changes in WAYS.items():
    try:
        scaling = simulate(DAY.override(*changes)).scaling
    except MoesimError as error:
        print(f"{name}: {error}")
        continue
    runs[name] = scaling
    told = scaling.summary
    print(
        f"{name:18s}"
        f"{told.attainment:9.0%}"
        f"{told.latency_mean_s:13.1f}"
        f"{told.downtime_s:9.0f}"
        f"{told.devices_mean:10.1f}"
        f"{told.devices_peak:10d}"
        f"{told.device_hours:15.2f}"
    )

if len(sys.argv) > 1:
    # The course of the day, scaled elastically and, in grey, by cold restarts.
    scaling_chart(runs["elastic"], runs["cold restart"]).figure.write_html(sys.argv[1])
