"""Part of the demo: what makes people ride? Reads the uploaded table, prints a summary, keeps `rides` for later."""

import numpy as np
import pandas as pd

rides = pd.read_csv("bike-rentals.csv", parse_dates=["date"])
rides["total"] = rides.member_rides + rides.casual_rides
rides["weekend"] = rides.date.dt.day_of_week >= 5

print(f"{len(rides)} days, {rides.total.sum():,} rides, best day {rides.loc[rides.total.idxmax(), 'date']:%d %B}")
print(rides.groupby("weekend")[["member_rides", "casual_rides"]].mean().round().astype(int).to_string())

# How much of the difference between days the weather explains: least squares on warmth, warmth squared, rain and wind.
warmth = rides.temperature_c
weather = np.column_stack([np.ones(len(rides)), warmth, warmth**2, rides.rain_mm, rides.wind_kmh])
weights, *_ = np.linalg.lstsq(weather, rides.total, rcond=None)
rides["expected"] = (weather @ weights).clip(min=0)
r_squared = 1 - ((rides.total - rides.expected) ** 2).sum() / ((rides.total - rides.total.mean()) ** 2).sum()
print(f"the weather explains {r_squared:.0%} of the difference between days")
print(f"a millimetre of rain costs {-weights[3]:.0f} rides")
