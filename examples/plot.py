"""Part of the demo: draws what analyse.py left in the session's variables."""

import matplotlib.pyplot as plt

figure, (year, rain) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=[2, 1])
weekly = rides.set_index("date")[["total", "expected"]].resample("W").mean().iloc[1:-1]  # noqa: F821
weekly.total.plot(ax=year, label="rides a day")
weekly.expected.plot(ax=year, linestyle="--", label="expected from the weather")
year.set(title="Bike rides in 2025, weekly means", xlabel="", ylim=0)
year.legend()
points = rain.scatter(rides.temperature_c, rides.total, c=rides.rain_mm.clip(upper=15), cmap="viridis_r", s=12)  # noqa: F821
figure.colorbar(points, label="rain, mm")
rain.set(title="Warm and dry is best", xlabel="temperature, °C", ylim=0)
figure.tight_layout()
plt.show()
