"""The built-in planners and schedules; plug-ins like anybody's."""
