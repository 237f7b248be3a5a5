--- How many times as long things may take: TIDEMILL_SLOW, set where the program runs under a
-- sanitizer or valgrind (tools/sanitize.sh); 1 otherwise.
--
--   local DEADLINE_MS = 30000 * require "spec.support.slow"

return math.max(1, math.tointeger(tonumber(os.getenv "TIDEMILL_SLOW" or "")) or 1)
