-- Runs busted inside tidemill, so that specs can require host.* and mill.*.
--   tidemill exec spec/run.lua [busted options] [spec files or folders]
package.path = "./?.lua;" .. package.path
require "busted.runner" { standalone = false }
