package eventhub

import (
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/testing/peers/amqp"
)

// tokenNode is the address to which clients send tokens, as in AMQP claims-based security.
const tokenNode = "$cbs"

// client is the connection of a client. It handles the connection's links and messages.
type client struct {
	namespace *Namespace
	conn      *amqp.Conn
	granted   map[string][]string // claims of the client's token, by hub; guarded by namespace.mu
}

// hubOf returns the name of the hub in an address, which may be a URL of the form amqps://host/hub.
func hubOf(address string) string {
	if _, rest, isURL := strings.Cut(address, "://"); isURL {
		_, address, _ = strings.Cut(rest, "/")
	}
	name, _, _ := strings.Cut(address, "/")
	return name
}

// Attach accepts two kinds of links: links for tokens, and links to hubs to which the client may
// send according to its tokens.
func (c *client) Attach(l *amqp.Link) *amqp.Error {
	if !l.Sends {
		if l.Source != tokenNode {
			return notFound(l.Source)
		}
		return nil
	}
	if l.Target == tokenNode {
		return nil
	}
	c.namespace.mu.Lock()
	defer c.namespace.mu.Unlock()
	h := c.namespace.hubs[hubOf(l.Target)]
	switch {
	case h == nil:
		return notFound(l.Target)
	case !slices.Contains(c.granted[h.Name], "Send"):
		return &amqp.Error{
			Condition:   "amqp:unauthorized-access",
			Description: "Unauthorized access. 'Send' claim(s) are required. TrackingId:def_G3",
		}
	case h.disabled:
		return &amqp.Error{Condition: "com.microsoft:entity-disabled", Description: "disabled"}
	}
	h.counts.Links++
	l.MaxMessageSize = uint64(max(0, h.settings.Max))
	return nil
}

func notFound(address string) *amqp.Error {
	return &amqp.Error{Condition: "amqp:not-found", Description: "The messaging entity '" + address +
		"' could not be found. TrackingId:def_G2"}
}

// Message handles a message, which is a token or contains events for a hub.
func (c *client) Message(d *amqp.Delivery) {
	if d.Link.Target == tokenNode {
		d.Accept()
		c.putToken(d)
		return
	}
	for _, answer := range c.receive(d) {
		answer()
	}
}

// receive passes a message to its hub. It returns one function for each message that can be
// answered now. The function sends the answer. The caller must not hold the lock when it calls
// these functions.
func (c *client) receive(d *amqp.Delivery) (answers []func()) {
	c.namespace.mu.Lock()
	defer c.namespace.mu.Unlock()
	h := c.namespace.hubs[hubOf(d.Link.Target)]
	if h == nil {
		return nil // the hub was removed, so the link is already detached
	}
	for _, ready := range h.receive(d) {
		answers = append(answers, h.decide(ready))
	}
	return answers
}

// Violation records that the client has broken the protocol.
func (c *client) Violation(err error) { c.namespace.violation(err) }

// putToken handles a request that contains a token, and replies with the status.
func (c *client) putToken(d *amqp.Delivery) {
	request, err := amqp.ParseMessage(d.Payload)
	if err != nil {
		c.Violation(err)
		return
	}
	status, description := c.grant(request)
	for _, l := range c.conn.Links() {
		if !l.Sends && l.Target == request.Properties.ReplyTo {
			l.Send(amqp.AppendReply(nil, request.Properties.MessageID, map[string]any{
				"status-code": int32(status), "status-description": description + " TrackingId:abc_G1",
			}, ""))
			return
		}
	}
	c.Violation(&amqp.Error{Condition: amqp.InvalidField, Description: "no link for the reply to " + request.Properties.ReplyTo})
}

// grant checks the token in a request, and records the claims that the token grants. It returns an
// HTTP-like status.
func (c *client) grant(request *amqp.Message) (status int, description string) {
	text := func(name string) string {
		value, _ := request.ApplicationProperties[name].(string)
		return value
	}
	token, isText := request.Value.(string)
	if !isText || text("operation") != "put-token" || text("name") == "" {
		return 400, "BadRequest"
	}
	name := hubOf(text("name"))
	c.namespace.mu.Lock()
	defer c.namespace.mu.Unlock()
	h := c.namespace.hubs[name]
	if h != nil {
		h.counts.Claims++
		if h.refuse != 0 {
			return h.refuse, "refused"
		}
	}
	switch text("type") {
	case "jwt":
		if h == nil || !h.tokens[token] {
			return 401, "InvalidToken"
		}
		c.granted[name] = []string{"Send"}
	case "servicebus.windows.net:sastoken":
		claims, problem := checkSignature(token, text("name"))
		if problem != "" {
			return 401, problem
		}
		c.granted[name] = claims
	default:
		return 400, "no such type of token"
	}
	return 202, "Accepted"
}
