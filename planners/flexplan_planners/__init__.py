"""The built-in planners and schedules; plug-ins like anybody's.

lp_planner      The linear program over every setting of the switches, rounded and placed.
manual_planner  The smallest planner: percents as written.
rolling_search  The search for rolling policies: seats as memory has room for, judged by simulation.
search_planner  The default: what the linear program proposes, judged by simulation.
"""
