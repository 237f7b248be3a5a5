--- A process that keeps all it ever had: spec/mill/soak_spec.lua shows it to the judge.

local clock = require "host.clock"

print "begun"
io.stdout:flush()
local kept = {}
while #kept < 2000 do
  kept[#kept + 1] = { ("x"):rep(100000) .. #kept, #kept % 4 == 0 and io.open("/dev/null") }
  clock.sleep(10)
end
