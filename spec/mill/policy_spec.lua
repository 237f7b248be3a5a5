-- What is said and what is not about Kafka's errors.

describe("an error of Kafka", function()
  local policy = require "mill.policy"
  local said, run

  before_each(function()
    said = { debug = 0, trouble = 0 }
    run = { claims = { [2] = {} }, looks = {}, log = {
      debug = function() said.debug = said.debug + 1 end,
      trouble = function(key) said.trouble, said.key = said.trouble + 1, key end,
    }, stop_reading = function(_, list) said.stopped = list[1] end }
  end)

  it("that a rebalance gives a commit to the group is no trouble", function()
    for _, code in ipairs { "ILLEGAL_GENERATION", "REBALANCE_IN_PROGRESS", "UNKNOWN_MEMBER_ID" } do
      policy.kafka_error(run, { code = code, message = "the commit to the group failed" })
    end
    assert.same({ debug = 3, trouble = 0 }, said)
    assert.is_nil(run.kafka_trouble)
  end)

  it("of the transport is one, until Kafka answers", function()
    policy.kafka_error(run, { code = "ALL_BROKERS_DOWN", message = "all brokers are down" })
    assert.same({ debug = 0, trouble = 1, key = "kafka", stopped = 2 }, said)
    assert.is_true(run.kafka_trouble)
    -- Brokers that were all away may have another log when they are back.
    assert.same({ [2] = true }, run.looks)
  end)

  it("about offsets has the partition claimed again, and no other", function()
    policy.kafka_error(run, { code = "AUTO_OFFSET_RESET", partition = 3, message = "out of range" })
    assert.same({}, run.looks)
    policy.kafka_error(run, { code = "AUTO_OFFSET_RESET", partition = 2, message = "out of range" })
    assert.same({ [2] = true }, run.looks)
  end)

  it("that is fatal ends the run", function()
    assert.error_matches(function()
      policy.kafka_error(run, { fatal = true, code = "UNKNOWN_PRODUCER_ID", message = "gone" })
    end, "Kafka: gone")
  end)

  it("that fences the run's name is asked of the database", function()
    local asked
    run.group_fenced = function() asked = true end
    policy.kafka_error(run, { fatal = true, code = "FENCED_INSTANCE_ID", message = "gone" })
    assert.is_true(asked)
  end)
end)
