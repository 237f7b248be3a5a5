-- Message timestamp to visible in MySQL, 100 messages a second.
return require("bench.latency_case").case(100, { p50_ms = 8, over_control_ms = 8 })
