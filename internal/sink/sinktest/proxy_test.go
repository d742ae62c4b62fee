package sinktest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// echo is a server that answers each line with the same line, and records the lines.
type echo struct {
	listener net.Listener
	got      chan string
	group    sync.WaitGroup
}

func newEcho(t *testing.T) *echo {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{listener: listener, got: make(chan string, 100)}
	e.group.Go(e.serve)
	t.Cleanup(func() { listener.Close(); e.group.Wait() })
	return e
}

func (e *echo) serve() {
	for {
		c, err := e.listener.Accept()
		if err != nil {
			return
		}
		e.group.Go(func() {
			defer c.Close()
			lines := bufio.NewScanner(c)
			for lines.Scan() {
				e.got <- lines.Text()
				if _, err := io.WriteString(c, lines.Text()+"\n"); err != nil {
					return
				}
			}
		})
	}
}

// client is a connection to the server through the proxy.
type client struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, p *Proxy) *client {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &client{c, bufio.NewReader(c)}
}

// say sends a line. It returns the answer up to the end of the line, or up to the cut of the
// connection.
func (c *client) say(line string) (string, error) {
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return "", err
	}
	answer, err := c.in.ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}

func TestProxy_CarriesAndCounts(t *testing.T) {
	e := newEcho(t)
	p := NewProxy(t, e.listener.Addr().String())
	long := strings.Repeat("x", 60_000)
	for range 2 {
		c := dial(t, p)
		for _, line := range []string{"one", "", long} {
			if got, err := c.say(line); got != line || err != nil {
				t.Errorf("sent %d bytes, received %d: %v", len(line), len(got), err)
			}
		}
	}
	if got, want := p.Steps(), 2*(len("one\n\n\n")+len(long)); got != want {
		t.Errorf("the answers had %d bytes, %d were counted", want, got)
	}
}

func TestProxy_CutsAfterSomeBytes(t *testing.T) {
	e := newEcho(t)
	p := NewProxy(t, e.listener.Addr().String())
	for n := range 7 {
		c := dial(t, p)
		if got, err := c.say("abc"); got != "abc" || err != nil {
			t.Fatal(got, err)
		}
		p.Break(n, Lost)
		heard := ""
		var err error
		for err == nil {
			var got string
			got, err = c.say("abc")
			heard += got
			if err == nil {
				heard += "."
				<-e.got
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		if want := "abc.abc."[:n]; heard != want {
			t.Errorf("after %d bytes received %q", n, heard)
		}
		if other, err := dial(t, p).say("x"); err == nil {
			t.Errorf("while it is broken another client receives %q", other)
		}
		p.Repair()
		for len(e.got) > 0 {
			<-e.got
		}
	}
	if got, err := dial(t, p).say("again"); got != "again" || err != nil {
		t.Errorf("after Repair: %q, %v", got, err)
	}
}

func TestProxy_SwallowsTheAnswer(t *testing.T) {
	e := newEcho(t)
	p := NewProxy(t, e.listener.Addr().String())
	c := dial(t, p)
	if _, err := c.say("one"); err != nil {
		t.Fatal(err)
	}
	<-e.got
	p.Break(0, Answered)
	if got, err := c.say("commit"); got != "" || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("received %q: %v", got, err)
	}
	if got := <-e.got; got != "commit" {
		t.Errorf("the server got %q", got)
	}
	p.Repair()
	if got, err := dial(t, p).say("two"); got != "two" || err != nil {
		t.Errorf("after Repair: %q, %v", got, err)
	}
}

func TestProxy_Stalls(t *testing.T) {
	e := newEcho(t)
	p := NewProxy(t, e.listener.Addr().String())
	c := dial(t, p)
	if _, err := c.say("one"); err != nil {
		t.Fatal(err)
	}
	<-e.got
	p.Stall()
	answers := make(chan string, 1)
	go func() {
		got, err := c.say("two")
		answers <- fmt.Sprint(got, err)
	}()
	if got := <-e.got; got != "two" { // it is on its way back
		t.Errorf("the server got %q", got)
	}
	select {
	case got := <-answers:
		t.Errorf("received %q while stalled", got)
	default:
	}
	p.Repair()
	if got := <-answers; got != "two<nil>" {
		t.Errorf("received %q", got)
	}
	p.Cut()
	if got, err := c.say("three"); err == nil {
		t.Errorf("received %q after a cut", got)
	}
}
