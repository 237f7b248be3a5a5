-- A topic that is looked up before anything is sent to it. The brokers are a table.

local topics = require "mill.topic"

describe("a topic that is not there", function()
  local admin, answer, asked

  before_each(function()
    asked = {}
    admin = {
      metadata = function() return { topics = {} } end,
      create_topic = function(_, o)
        asked[#asked + 1] = o
        return nil, "kafka: " .. answer .. ": not now", answer
      end,
    }
  end)

  local function ensure(options)
    options.topic, options.brokers, options.admin, options.hint = "t", "b:9092", admin, "; ask somebody"
    options.wait_ms = 1
    return topics.ensure(options)
  end

  it("is a fault, or is to be tried again later, when it is not to be created", function()
    assert.has_error(function() ensure {} end)
    assert.has_error(function() ensure { patient = true } end)
    assert.same({ nil, "topic 't' does not exist" }, { ensure { patient = true, later = true } })
  end)

  it("and cannot be created is a fault, or is to be tried again by the patient", function()
    for _, code in ipairs { "NOT_CONTROLLER", "INTERRUPTED", "TIMED_OUT", "TOPIC_AUTHORIZATION_FAILED" } do
      answer = code
      local message = ("topic 't' could not be created: kafka: %s: not now; ask somebody"):format(code)
      assert.same({ nil, message }, { ensure { create = true, patient = true } })
      local ok, err = pcall(ensure, { create = true })
      assert.is_false(ok)
      assert.equal(message, tostring(err))
    end
    assert.is_true(asked[1].timeout_ms <= 1000)
    assert.is_nil(asked[2].timeout_ms)
  end)

  it("was made by somebody else meanwhile, or is not shown", function()
    answer = "TOPIC_ALREADY_EXISTS"
    assert.matches("not shown to this user", select(2, ensure { create = true, patient = true }))
    local looks = 0
    function admin.metadata()
      looks = looks + 1
      return { topics = looks > 1 and { t = { partitions = { {}, {} } } } or {}, cluster_id = "c" }
    end
    assert.same({ partitions = 2, created = true, cluster_id = "c", development = false },
      ensure { create = true })
  end)
end)
