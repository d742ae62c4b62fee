package eventhub

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/encode"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// maxHub is the length of a hub's name that Azure allows.
const maxHub = 256

// hubName names the hub of an event.
type hubName struct {
	fixed    string       // "" where there is a template
	template *encode.Path // nil where the name is fixed
	byTable  bool         // the template depends on the table alone
}

// parseHub reads a hub's name, or a template of names.
func parseHub(text string) (*hubName, error) {
	switch {
	case text == "":
		return nil, errors.New("the eventhub url names no hub; it should end like ;EntityPath=hub")
	case strings.Contains(text, "/"):
		return nil, errors.New("the hub has a slash in its name, which Event Hubs does not allow; use . or - instead")
	case !strings.Contains(text, "{{"):
		if strings.Contains(text, "=") { // it may be half a secret
			return nil, errors.New("the hub's name has a = in it; write ; between the parts of a connection string")
		}
		if legal(text) != text {
			return nil, fmt.Errorf("a hub's name can not be %.60q: it has letters, digits and . _ - only, begins and ends with a letter or digit, and is no longer than %d", text, maxHub)
		}
		return &hubName{fixed: text}, nil
	}
	template, err := encode.ParsePath(text)
	if err != nil {
		return nil, errors.New("hub" + strings.TrimPrefix(err.Error(), "path"))
	}
	return &hubName{template: template, byTable: !strings.Contains(strings.ReplaceAll(text, "{{.table}}", ""), "{{")}, nil
}

// of returns the hub of an event; known keeps the names of tables' hubs. An
// error is about this event alone.
func (n *hubName) of(e *cdc.Event, known map[string]string) (string, error) {
	if n.template == nil {
		return n.fixed, nil
	}
	if name, ok := known[e.Table]; ok && n.byTable {
		return name, nil
	}
	name, err := n.template.Render(e)
	if err != nil {
		return "", fault.Mark(fault.Poison, errors.New("the hub's template can not be rendered for this change"))
	}
	name = legal(name)
	known[e.Table] = name
	return name, nil
}

// legal returns the name with each byte that Azure refuses replaced by _, a 0 at
// an end that is no letter or digit, and what is too long cut, with a hash at its
// end.
func legal(name string) string {
	b := []byte(name)
	for i, c := range b {
		if !alphanumeric(c) && c != '.' && c != '_' && c != '-' {
			b[i] = '_'
		}
	}
	text := string(b)
	if text == "" || !alphanumeric(text[0]) {
		text = "0" + text
	}
	if !alphanumeric(text[len(text)-1]) {
		text += "0"
	}
	if len(text) > maxHub {
		sum := sha256.Sum256([]byte(name))
		text = text[:maxHub-33] + "-" + hex.EncodeToString(sum[:16])
	}
	return text
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
