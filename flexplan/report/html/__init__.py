"""A report as one HTML file that needs no network: what `explain` says, as people pass it around.

again     The commands that make it again.
charts    What the script draws: lanes over time, memory over time.
measured  What a page says of a run, beside its prediction.
page      The page put together: the template, the sections, the data and the chart library.
shown     What a report is about, and the passes that it shows.
sections  What stands on the page without a script: sentences, tables, bars, the map.

`template.html`, `report.css` and `report.js` are the page's own; `echarts.min.js` is Apache ECharts 6.1.0, as it was
published (see NOTICE).
"""

from flexplan.report.html.page import html_report

__all__ = ["html_report"]
