// A goroutine-per-connection HTTP service: answers /work/ID after up to three calls of /work/ID.N downstream, one after
// the other or at once. Meanwhile a goroutine calls the same downstream, through the same transport, as /work/bg-PID-N.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	downstream   = flag.String("downstream", "", "HOST:PORT")
	fixedCalls   = flag.Int("calls", -1, "always this many calls")
	delayMs      = flag.Int("delay-ms", 0, "wait up to this long before answering")
	backgroundMs = flag.Int("background-ms", 15, "0: no background calls")

	sizes  = []int{0, 10, 1000, 20_000, 100_000}
	pooled = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	fresh  = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
)

func call(id string) {
	client := fresh
	if rand.Float64() < 0.6 {
		client = pooled
	}
	url := fmt.Sprintf("http://%s/work/%s?k=v", *downstream, id)
	var response *http.Response
	var err error
	if rand.Float64() < 0.25 {
		body := bytes.Repeat([]byte("b"), []int{1, 500, 30_000}[rand.Intn(3)])
		response, err = client.Post(url, "text/plain", bytes.NewReader(body))
	} else {
		response, err = client.Get(url)
	}
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != 200 {
		log.Fatal(id, " ", response.StatusCode, " ", err)
	}
}

func delayedCall(id string) {
	time.Sleep(time.Duration(rand.Intn(3000)) * time.Microsecond)
	call(id)
}

func serve(writer http.ResponseWriter, request *http.Request) {
	io.Copy(io.Discard, request.Body)
	id := strings.TrimPrefix(request.URL.Path, "/work/")
	time.Sleep(time.Duration(rand.Float64() * float64(*delayMs) * float64(time.Millisecond)))
	calls := 0
	if *downstream != "" {
		calls = *fixedCalls
		if calls < 0 {
			calls = rand.Intn(4)
		}
		if rand.Float64() < 0.5 {
			var group sync.WaitGroup
			for number := range calls {
				group.Go(func() { delayedCall(fmt.Sprintf("%s.%d", id, number)) })
			}
			group.Wait()
		} else {
			for number := range calls {
				delayedCall(fmt.Sprintf("%s.%d", id, number))
			}
		}
	}
	body := append([]byte(fmt.Sprintf("calls=%d\n", calls)), bytes.Repeat([]byte("x"), sizes[rand.Intn(len(sizes))])...)
	if rand.Float64() < 0.5 {
		writer.Header().Set("Content-Length", strconv.Itoa(len(body)))
		writer.Write(body)
		return
	}
	for len(body) > 0 {
		piece := body[:min(len(body), 7000)]
		writer.Write(piece)
		writer.(http.Flusher).Flush()
		body = body[len(piece):]
	}
}

func background() {
	for number := 0; ; number++ {
		time.Sleep(time.Duration(rand.Float64()*2*float64(*backgroundMs)*1e6) * time.Nanosecond)
		call(fmt.Sprintf("bg-%d-%d", os.Getpid(), number))
	}
}

func main() {
	flag.Parse()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("PORT", listener.Addr().(*net.TCPAddr).Port)
	if *downstream != "" && *backgroundMs > 0 {
		go background()
	}
	log.Fatal(http.Serve(listener, http.HandlerFunc(serve)))
}
