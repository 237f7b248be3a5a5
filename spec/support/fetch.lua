-- tidemill exec spec/support/fetch.lua URL: prints the body or the code of the failure.
local http = require "host.http"
local client <close> = assert(http.client {})
local response, _, code = client:fetch { url = arg[1] }
io.write(response and response.body or code)
