package bench_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// recorder is a proxy in front of a PostgreSQL server that keeps every byte of the client, so that
// the same statements with the same encoded rows can be sent again without eds.
type recorder struct {
	b        *testing.B
	server   string
	listener net.Listener
	work     sync.WaitGroup

	mu       sync.Mutex
	sessions []*recording
}

// recording holds the bytes that a client sent on one connection.
type recording struct {
	mu   sync.Mutex
	sent bytes.Buffer
}

func record(b *testing.B, server string) *recorder {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	r := &recorder{b: b, server: server, listener: l}
	r.work.Go(r.accept)
	return r
}

func (r *recorder) close() {
	_ = r.listener.Close() // ends accept
	r.work.Wait()
}

func (r *recorder) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.server)
		if err != nil {
			r.b.Error(err)
			return
		}
		s := new(recording)
		r.mu.Lock()
		r.sessions = append(r.sessions, s)
		r.mu.Unlock()
		r.work.Go(func() {
			_, _ = io.Copy(io.MultiWriter(server, s), client) // ends with the connection
			_ = server.Close()
		})
		r.work.Go(func() {
			_, _ = io.Copy(client, server) // likewise
			_ = client.Close()
		})
	}
}

func (s *recording) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent.Write(p)
}

func (s *recording) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent.Len()
}

// largest returns the largest recording, which has the rows.
func (r *recorder) largest() *recording {
	r.mu.Lock()
	defer r.mu.Unlock()
	var most *recording
	for _, s := range r.sessions {
		if most == nil || s.len() > most.len() {
			most = s
		}
	}
	return most
}

// replay sends recorded bytes to the server and waits until it closes the connection. It returns
// how often the server was ready for a query, and how often it reported an error. The recording
// ends with Terminate.
func replay(b *testing.B, server string, sent []byte) (ready, wrong int) {
	b.Helper()
	conn, err := net.Dial("tcp", server)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	var writer sync.WaitGroup
	writer.Go(func() {
		if _, err := conn.Write(sent); err != nil {
			b.Error(err)
		}
	})
	in := bytes.NewBuffer(nil)
	part := make([]byte, 1<<16)
	for {
		n, err := conn.Read(part)
		in.Write(part[:n])
		for in.Len() >= 5 {
			head := in.Bytes()
			size := int(binary.BigEndian.Uint32(head[1:])) + 1
			if in.Len() < size {
				break
			}
			switch head[0] {
			case 'Z':
				ready++
			case 'E':
				wrong++
			}
			in.Next(size)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				b.Error(err)
			}
			break
		}
	}
	writer.Wait()
	return ready, wrong
}
