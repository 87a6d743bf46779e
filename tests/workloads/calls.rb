# Calls of a downstream service, as the Ruby workloads make them, and the ledger that tells the truth about them: a line
# per call with its id, the id of its request or -, and the status that it must get.

require "net/http"
require "securerandom"

SIZES = [0, 10, 1000, 20_000, 100_000].freeze

class Downstream
  attr_reader :options

  def initialize(options)
    @options = options
    @idle = Queue.new
    @jobs = Queue.new
    @host, @port = options.fetch("downstream").split(":")
    @ledger = File.open(options["ledger"], "a") if options["ledger"]
    @ledger&.sync = true
  end

  def pause
    sleep(rand * 0.003)
  end

  # Starts what a service has besides the threads that serve.
  def start
    Thread.new { background }
    # Fewer than most loads, so that work queues.
    12.times { Thread.new { work_off } } if @options["model"] == "pool"
  end

  # How many of a hundred calls are put off until the request is answered.
  AFTER = { "after" => 50, "seldom-after" => 2 }.freeze

  # The calls of a request; their number. What is put off goes to `later`.
  def serve(cause, later = [])
    count = rand(4)
    count.times do |number|
      pause
      if rand(100) < AFTER.fetch(@options["model"], 0)
        later << -> { call(cause, number) }
      elsif @options["model"] == "pool"
        done = Queue.new
        @jobs << [cause, number, done]
        done.pop
      else
        call(cause, number)
      end
    end
    count
  end

  def work_off
    loop do
      cause, number, done = @jobs.pop
      call(cause, number)
      done << true
    end
  end

  # The call, before which now and then one fails that has to be tried again.
  def call(cause, number)
    send_one(name(cause, "#{number}-failed", 503), 503) if @ledger && rand < 0.03
    send_one(name(cause, number, 200), 200)
  end

  def name(cause, number, status)
    id = cause ? "#{cause}.#{number}" : "bg-#{Process.pid}-#{number}"
    id = SecureRandom.hex(8) if @options["names"] == "random"
    @ledger&.syswrite("#{id} #{cause || "-"} #{status}\n")
    id
  end

  def send_one(id, wanted)
    pooled = rand < 0.6
    connection = begin
      @idle.pop(true) if pooled
    rescue ThreadError
      nil
    end
    connection ||= Net::HTTP.new(@host, @port).tap do |fresh|
      fresh.max_retries = 0
      fresh.keep_alive_timeout = 60
      fresh.start
    end
    path = "/work/#{id}?pooled=#{pooled}" + (wanted == 200 ? "" : "&fail=yes")
    request = rand < 0.25 ? Net::HTTP::Post.new(path) : Net::HTTP::Get.new(path)
    request.body = "b" * [1, 500, 30_000].sample if request.is_a?(Net::HTTP::Post)
    request["Connection"] = pooled ? "keep-alive" : "close"
    response = connection.request(request)
    raise "#{id}: #{response.code}" unless response.code.to_i == wanted

    pooled && connection.started? && wanted == 200 ? @idle << connection : connection.finish
  end

  # Calls that no request causes, for as long as the process lives.
  def background
    period = @options.fetch("background-ms", "15").to_f / 1000
    (0..).each do |number|
      sleep(rand * 2 * period)
      call(nil, number)
    end
  end

  def body(calls)
    "calls=#{calls}\n" + "x" * SIZES.sample
  end
end
