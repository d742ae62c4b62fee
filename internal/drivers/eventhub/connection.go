package eventhub

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// connectionString holds the parts of an Azure connection string.
type connectionString struct {
	host     string // host, or host:port
	keyName  string
	key      string
	hub      string
	emulator bool // the server is the emulator, which speaks AMQP without TLS
}

// pairNames lists the names of the Name=value parts that a connection string may have.
var pairNames = []string{"Endpoint", "SharedAccessKeyName", "SharedAccessKey", "EntityPath", "UseDevelopmentEmulator"}

// parseConnection reads a connection string of the form host/;Name=value;Name=value. The prefix
// Endpoint=sb:// is optional. A hub may also be given as host/hub instead of EntityPath=hub. Errors
// contain no secrets of the connection string.
func parseConnection(text string) (connectionString, error) {
	var c connectionString
	if !strings.Contains(text, ";") {
		text = unescape(text)
	}
	host := ""
	for i, part := range strings.Split(text, ";") {
		part = strings.TrimSpace(part)
		name, value, _ := strings.Cut(part, "=")
		switch known := knownPair(name); {
		case known == "Endpoint":
			host = value
		case known != "":
			if err := c.set(known, value); err != nil {
				return c, err
			}
		case i == 0:
			host = part
		case part != "" && part != "/":
			return c, unknownPair(name)
		}
	}
	host = strings.TrimLeft(strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(host), "sb:"), "amqps:"), "/")
	host, hub, _ := strings.Cut(host, "/")
	if strings.Contains(hub, "=") {
		return c, errors.New("the connection string lacks a ; after its host; it should read " +
			"host/;SharedAccessKeyName=name;SharedAccessKey=key;EntityPath=hub")
	}
	if hub = strings.Trim(hub, "/"); hub != "" {
		if c.hub != "" && c.hub != hub {
			return c, errors.New("the eventhub url names a hub in its path and another one in EntityPath; leave one out")
		}
		c.hub = hub
	}
	c.host = host
	return c, c.check()
}

func knownPair(name string) string {
	name = strings.TrimLeft(strings.TrimSpace(name), "/")
	for _, known := range pairNames {
		if strings.EqualFold(name, known) {
			return known
		}
	}
	return ""
}

func unknownPair(name string) error {
	name = strings.TrimLeft(strings.TrimSpace(name), "/")
	if strings.EqualFold(name, "SharedAccessSignature") {
		return errors.New("the connection string holds a SharedAccessSignature, which expires; use SharedAccessKeyName and " +
			"SharedAccessKey, or auth= for Entra ID")
	}
	hint := "known ones are " + strings.Join(pairNames, ", ")
	if best := sink.Nearest(name, pairNames); best != "" {
		hint = fmt.Sprintf("did you mean %s?", best)
	}
	if !regexp.MustCompile(`^[A-Za-z]{1,40}$`).MatchString(name) {
		return errors.New("the connection string has a part with an unknown name; " + hint)
	}
	return fmt.Errorf("the connection string has a part with the unknown name %s; %s", name, hint)
}

func (c *connectionString) set(name, value string) error {
	value = unescape(strings.TrimSpace(value))
	switch name {
	case "SharedAccessKeyName":
		c.keyName = value
	case "SharedAccessKey":
		// Base64 has no blanks. A tool that decoded the URL as a form has turned each + into a
		// blank.
		c.key = strings.ReplaceAll(value, " ", "+")
	case "EntityPath":
		c.hub = strings.Trim(value, "/")
	case "UseDevelopmentEmulator":
		on, err := strconv.ParseBool(value)
		if err != nil {
			return errors.New("UseDevelopmentEmulator should be true or false")
		}
		c.emulator = on
	}
	return nil
}

var escape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

// unescape decodes value if it is percent-encoded, as in a URL that was encoded twice. A valid
// value never contains a percent-encoding.
func unescape(value string) string {
	if !escape.MatchString(value) {
		return value
	}
	if plain, err := url.PathUnescape(value); err == nil {
		return plain
	}
	return value
}

// check rejects a host that cannot be a namespace. It also rejects a key name without a key, and a
// key without a key name.
func (c *connectionString) check() error {
	name, port := c.host, ""
	if strings.Contains(c.host, ":") {
		var err error
		if name, port, err = net.SplitHostPort(c.host); err != nil {
			return errHost
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("the port of the namespace should be a number from 1 to 65535")
		}
	}
	switch {
	case name == "" || strings.ContainsFunc(name, notInHost):
		return errHost
	case c.emulator && strings.Contains(name, ".servicebus."):
		return errors.New("UseDevelopmentEmulator=true leaves encryption out and is for the emulator alone; remove it")
	case c.keyName == "" && c.key != "":
		return errors.New("the connection string has a SharedAccessKey, but no SharedAccessKeyName")
	case c.keyName != "" && c.key == "":
		return errors.New("the connection string has a SharedAccessKeyName, but no SharedAccessKey")
	}
	return nil
}

var errHost = errors.New("the eventhub url should begin with the namespace's host name, like eventhub://example.servicebus.windows.net/")

func notInHost(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune("/@?#%\\\"<>^`{|}$,'!()*;=&+~", r)
}

// forHub returns the connection string in the form that Azure's clients expect, with hub as its
// EntityPath.
func (c *connectionString) forHub(hub string) string {
	text := "Endpoint=sb://" + c.host + "/;SharedAccessKeyName=" + c.keyName + ";SharedAccessKey=" + c.key + ";EntityPath=" + hub
	if c.emulator {
		text += ";UseDevelopmentEmulator=true"
	}
	return text
}
