--- tidemill version: of the program and of the libraries it runs with.

local json = require "mill.json"

local M = {
  summary = "show the versions of tidemill and its libraries",
  usage = "tidemill version [--json]",
  takes = 0,
  options = { { "json", nil, "print one JSON object" } },
}

function M.run(opts)
  local versions = require("host.version").all()
  if opts.json then
    print(json.encode(versions))
    return 0
  end
  print("tidemill " .. versions.tidemill)
  local names = {}
  for name in pairs(versions) do
    if name ~= "tidemill" then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do print(("  %-16s %s"):format(name, versions[name])) end
  return 0
end

return M
