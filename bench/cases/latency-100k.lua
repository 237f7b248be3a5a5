-- Message timestamp to visible in MySQL, 100,000 messages a second.
return require("bench.latency_case").case(100000, { p99_ms = 100 })
