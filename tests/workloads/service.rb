# A thread-per-connection HTTP service of WEBrick: answers /work/ID after up to three calls of /work/ID.N downstream.
# Options are pairs: --downstream HOST:PORT --ledger FILE --names random --model thread|pool

require "webrick"
require_relative "calls"

downstream = Downstream.new(ARGV.each_slice(2).to_h { |key, value| [key.delete_prefix("--"), value] })
quiet = WEBrick::Log.new(File::NULL)
server = WEBrick::HTTPServer.new(
  BindAddress: "127.0.0.1", Port: 0, Logger: quiet, AccessLog: [], MaxClients: 200, DoNotReverseLookup: true
)
server.mount_proc("/work/") do |request, response|
  request.body if request.request_method == "POST"
  calls = downstream.serve(request.path.delete_prefix("/work/"))
  response.status = 200
  response.chunked = true if rand < 0.5
  response.body = downstream.body(calls)
end
downstream.start
$stdout.sync = true
puts "PORT #{server.listeners.first.addr[1]}"
server.start
