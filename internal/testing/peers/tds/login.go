package tds

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// Values of the option ENCRYPTION in PRELOGIN messages.
const (
	encryptOff          = 0
	encryptRequired     = 3
	encryptNotSupported = 2
)

// prelogin negotiates encryption. It returns the connection for the login message, and the
// connection for all later messages.
func (s *Server) prelogin(conn net.Conn) (login, after net.Conn, err error) {
	kind, body, err := readMessage(conn)
	if err != nil || kind != messagePrelogin {
		return nil, nil, errors.Join(err, errors.New("tds: no prelogin"))
	}
	asked := byte(encryptNotSupported)
	for r := (&reader{b: body}); ; {
		option := r.uint8()
		if option == 0xFF || r.bad {
			break
		}
		at := int(be.Uint16(r.take(2)))
		r.take(2)
		if option == 1 && at < len(body) {
			asked = body[at]
		}
	}
	answer := byte(encryptNotSupported)
	switch {
	case s.options.Certificate == nil || asked == encryptNotSupported && !s.options.Encrypt:
	case asked == 1 || s.options.Encrypt:
		answer = encryptRequired
	default:
		answer = encryptOff
	}
	// The options VERSION and ENCRYPTION.
	options := []byte{0, 0, 11, 0, 6, 1, 0, 17, 0, 1, 0xFF, 16, 0, 0x10, 0, 0, 0, answer}
	if err := writeMessage(conn, messageReply, options, 4096); err != nil || answer == encryptNotSupported {
		return conn, conn, err
	}
	wrapped := &handshake{Conn: conn}
	// Session tickets are disabled, because a ticket would follow the handshake without a TDS
	// packet around it.
	encrypted := tls.Server(wrapped, &tls.Config{Certificates: []tls.Certificate{*s.options.Certificate}, SessionTicketsDisabled: true})
	if err := encrypted.Handshake(); err != nil {
		return nil, nil, err
	}
	wrapped.over = true
	if answer == encryptOff {
		return encrypted, conn, nil
	}
	return encrypted, encrypted, nil
}

// handshake is a connection that carries the records of a TLS handshake in PRELOGIN messages. After
// the handshake, the field over is set, and the connection carries the records directly.
type handshake struct {
	net.Conn
	over    bool
	pending []byte
}

func (h *handshake) Read(b []byte) (int, error) {
	if h.over && len(h.pending) == 0 {
		return h.Conn.Read(b)
	}
	if len(h.pending) == 0 {
		kind, body, err := readMessage(h.Conn)
		if err != nil || kind != messagePrelogin {
			return 0, errors.Join(err, errors.New("tds: no handshake"))
		}
		h.pending = body
	}
	n := copy(b, h.pending)
	h.pending = h.pending[n:]
	return n, nil
}

func (h *handshake) Write(b []byte) (int, error) {
	if h.over {
		return h.Conn.Write(b)
	}
	return len(b), writeMessage(h.Conn, messagePrelogin, b, 4096)
}

// login holds the used fields of a LOGIN7 message.
type login struct {
	user, password, database string
	packetSize               int
}

func parseLogin(b []byte) (login, error) {
	field := func(at int) []byte {
		if at+4 > len(b) {
			return nil
		}
		start, size := int(le.Uint16(b[at:])), 2*int(le.Uint16(b[at+2:]))
		if start+size > len(b) {
			return nil
		}
		return b[start : start+size]
	}
	if len(b) < 94 {
		return login{}, errors.New("tds: the login is too short")
	}
	password := append([]byte{}, field(44)...)
	for i := range password {
		password[i] ^= 0xA5
		password[i] = password[i]<<4 | password[i]>>4
	}
	return login{
		user: fromUCS2(field(40)), password: fromUCS2(password), database: fromUCS2(field(68)),
		packetSize: int(le.Uint32(b[8:])),
	}, nil
}

// signIn reads the login message from conn, and writes the reply to the second connection. The two
// connections differ if only the login message is encrypted. signIn returns the database and the
// packet size.
func (s *Server) signIn(conn, answer net.Conn) (*database, int, error) {
	kind, body, err := readMessage(conn)
	if err != nil || kind != messageLogin {
		return nil, 0, errors.Join(err, errors.New("tds: no login"))
	}
	l, err := parseLogin(body)
	if err != nil {
		return nil, 0, err
	}
	refusals, d := s.refusal(l)
	if refusals != nil {
		var out []byte
		for _, e := range refusals {
			out = append(out, errorToken(e)...)
		}
		// The client must receive the answer before the connection ends.
		err := writeMessage(answer, messageReply, append(out, done(doneError, 0)...), 4096)
		return nil, 0, errors.Join(err, refusals[0])
	}
	size := min(max(l.packetSize, 512), 32767)
	ack := append([]byte{1, 0x74, 0, 0, 4}, shortText("Microsoft SQL Server")...)
	ack = append(ack, 16, 0, 0x10, 0)
	out := environment(environmentPacketSize, shortText(strconv.Itoa(size)), shortText("4096"))
	out = append(out, append(le.AppendUint16([]byte{0xAD}, uint16(len(ack))), ack...)...)
	return d, size, writeMessage(answer, messageReply, append(out, done(0, 0)...), 4096)
}

// refusal decides whether the server accepts a login. If the server accepts the login, refusal
// returns nil and the database. Otherwise, it returns the errors that the server sends.
func (s *Server) refusal(l login) ([]*Error, *database) {
	if e := s.record("login " + l.user); e != nil {
		return []*Error{e}, nil
	}
	failed := &Error{Number: 18456, Class: 14, State: 1, Message: fmt.Sprintf("Login failed for user '%s'.", l.user)}
	if l.user != User || l.password != Password {
		return []*Error{failed}, nil
	}
	d, err := s.database(l.database)
	if e := new(Error); errors.As(err, &e) {
		return []*Error{e, failed}, nil
	}
	if err != nil {
		return []*Error{{Number: 4060, Class: 20, State: 1, Message: err.Error()}}, nil
	}
	return nil, d
}

// patience is the maximum time that a client may take to sign in.
const patience = 30 * time.Second
