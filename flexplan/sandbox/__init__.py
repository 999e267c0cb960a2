"""Code of other packages, in a sandbox: bounded in time, memory and what it makes, ended with all it started.

allowance   The seconds that code of another package has, and who is to blame for what goes wrong meanwhile.
bounds      Graphs of other packages' schedules, bounded: so many passes and tasks, and none that is not well-formed.
process     A process for such code, as its starter sees it: asked, timed, ended.
remote      A schedule in a process of its own, as it is asked from here.
schedule    Schedules by name or instance; that of another package, by name, is asked in a process of its own.
server      The same process from within: builds graphs, and hands out their passes and tasks when asked.
supervisor  What stands between both processes: it ends all that the code started, whatever becomes of either.
thirdparty  Schedules of other packages: what they have in common; an instance of one, which runs here.
trial       A check run in a forked process, for the contracts: a verdict comes back, whatever the code does.
wire        Passes and tasks as plain data.
"""

from flexplan.sandbox.allowance import TIMEOUT_S
from flexplan.sandbox.schedule import blame_of, graph_blame_of, schedule_of
from flexplan.sandbox.thirdparty import ThirdParty

__all__ = ["TIMEOUT_S", "ThirdParty", "blame_of", "graph_blame_of", "schedule_of"]
