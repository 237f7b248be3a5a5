-- Message timestamp to visible in MySQL, 1,000 messages a second.
return require("bench.latency_case").case(1000, { p50_ms = 8, over_control_ms = 8 })
