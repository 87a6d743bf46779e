# The same service as service.rb as a Rack application, for Puma. Its options come in RACK_OPTIONS.

require_relative "calls"

downstream = Downstream.new(ENV.fetch("RACK_OPTIONS").split.each_slice(2).to_h { |key, value| [key.delete_prefix("--"), value] })
downstream.start

run(lambda do |env|
  env["rack.input"].read
  calls = downstream.serve(env["PATH_INFO"].delete_prefix("/work/"), env["rack.after_reply"])
  body = downstream.body(calls)
  [200, { "Content-Length" => body.bytesize.to_s }, [body]]
end)
