"""What the passes of a rolling job know of who is there.

choice How the rows of a pass choose.
doors  What one pass knows of the newcomers to a micro-batch, whose prompts stand one behind the other.
seats  What a micro-batch of seats knows of its rows, whose cache is a ring of columns.
"""

from flexplan_runtime.execute.seating.choice import Choice
from flexplan_runtime.execute.seating.doors import DoorState, Span
from flexplan_runtime.execute.seating.seats import SeatState, begins_of, seat_states

__all__ = ["Choice", "DoorState", "SeatState", "Span", "begins_of", "seat_states"]
