"""A plan in the words of other systems, and how far that is from the plan.

base          ``Export``: the settings, and the difference in sentences
module_names  what others call the parts of a model
device_map    the nearest map of whole modules, for accelerate
llamacpp      arguments of llama.cpp
vllm          flags of vLLM
exporters     each of them by the name that ``flexplan export --to`` takes
"""

from flexplan.export.base import Export
from flexplan.export.device_map import DeviceMap, device_map
from flexplan.export.exporters import export_plan, export_text

__all__ = ["DeviceMap", "Export", "device_map", "export_plan", "export_text"]
