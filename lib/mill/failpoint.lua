--- Named places at which a test build can be stopped, and checks it can leave out.
--
-- An ordinary build has neither: both functions are then constants. The test build is made by
-- `make faults`; how to ask it is told at the top of host/failpoint.c, the names are in
-- host/failpoint_names.h.

local M = {}

local host = package.preload["host.failpoint"] and require "host.failpoint"

--- Is this the test build?
M.built = host and true or false

--- Come by the point `name`: the test build may be killed or stopped there, or sleep; where it is
-- to fail this raises.
-- @return true where the connection is to be cut
M.hit = host and host.hit or function(_) return false end

--- Is the check `name` to be left out? Always false in an ordinary build.
M.off = host and host.off or function(_) return false end

return M
