package schema_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/schema"
)

const orderV1 = `{"table":"order","modelVersion":"v1","primaryKeys":["companyId","id"],"required":["id","companyId","total"],
"properties":{"total":{"type":"integer"},"id":{"type":"string"},"companyId":{"type":"string"},
"status":{"type":"array","items":{"type":"string","enum":["a","b"]}},"tags":{"type":"array","items":{"type":"string"}},
"createdDate":{"type":"string","format":"date-time","nullable":true},"meta":{"type":"object","additionalProperties":true,"$comment":"free form"},
"taxed":{"type":"boolean"},"rate":{"type":"number","deprecated":true},"odd":{"type":"something new"}}}`

func TestDecodeOrdersKeysFirstThenByName(t *testing.T) {
	got, err := schema.Decode([]byte(orderV1))
	if err != nil {
		t.Fatal(err)
	}
	want := []schema.Column{
		{Name: "companyId", Type: schema.String, PrimaryKey: true, Required: true},
		{Name: "id", Type: schema.String, PrimaryKey: true, Required: true},
		{Name: "createdDate", Type: schema.DateTime},
		{Name: "meta", Type: schema.Object, Comment: "free form"},
		{Name: "odd", Type: schema.String},
		{Name: "rate", Type: schema.Number, Deprecated: true},
		{Name: "status", Type: schema.Enum},
		{Name: "tags", Type: schema.Array},
		{Name: "taxed", Type: schema.Boolean},
		{Name: "total", Type: schema.Integer, Required: true},
	}
	if diff := cmp.Diff(want, got.Columns); diff != "" {
		t.Error(diff)
	}
	if got.Keys != 2 || got.Slot([]byte("total")) != 9 || got.Slot([]byte("nope")) != -1 {
		t.Errorf("Keys = %d, slots %d and %d", got.Keys, got.Slot([]byte("total")), got.Slot([]byte("nope")))
	}
	text, err := schema.Encode(got)
	if err != nil {
		t.Fatal(err)
	}
	back, err := schema.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, back, cmpopts.IgnoreUnexported(schema.Table{})); diff != "" {
		t.Error(diff)
	}
}

func TestASchemaWithoutAKeyIsAnErrorUnlessItHasAnID(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"table":"t","properties":{"id":{"type":"string"}}}`:                             true,
		`{"table":"t","properties":{"name":{"type":"string"}}}`:                           false,
		`{"table":"t","primaryKeys":["x"],"properties":{"id":{"type":"string"}}}`:         false,
		`{"table":"t","primaryKeys":["id","id"],"properties":{"id":{"type":"string"}}}`:   false,
		`{"table":"","primaryKeys":["id"],"properties":{"id":{"type":"string"}}}`:         false,
		`{"table":"t","primaryKeys":["id"],"properties":{"id":{"type":["a","b"]}}}`:       false,
		`{"table":"t","primaryKeys":["id"],"properties":{"id":{"type":"string"}},"x":[]}`: true,
	} {
		if _, err := schema.Decode([]byte(text)); (err == nil) != ok {
			t.Errorf("Decode(%s): %v", text, err)
		}
	}
}

// hq is a fetcher that counts what it is asked.
type hq struct {
	latest   map[string]json.RawMessage
	versions map[string]json.RawMessage
	asked    []string
}

func (h *hq) LatestSchemas(context.Context) (map[string]json.RawMessage, error) {
	h.asked = append(h.asked, "latest")
	return h.latest, nil
}

func (h *hq) Schema(_ context.Context, object, version string) (json.RawMessage, error) {
	h.asked = append(h.asked, object+"/"+version)
	text, ok := h.versions[object+"/"+version]
	if !ok {
		return nil, errors.New("unknown")
	}
	return text, nil
}

type memoryCache map[string]json.RawMessage

func (m memoryCache) LoadSchema(object, version string) (json.RawMessage, bool, error) {
	text, ok := m[object+"/"+version]
	return text, ok, nil
}

func (m memoryCache) SaveSchema(object, version string, text json.RawMessage) error {
	m[object+"/"+version] = text
	return nil
}

func TestCatalogueAsksOnceAVersionAndSharesLayouts(t *testing.T) {
	v1 := `{"table":"order","modelVersion":"v1","primaryKeys":["id"],"properties":{"id":{"type":"string"}}}`
	v2 := `{"table":"order","modelVersion":"v2","primaryKeys":["id"],"properties":{"id":{"type":"string"}}}`
	v3 := `{"table":"order","modelVersion":"v3","primaryKeys":["id"],"properties":{"id":{"type":"string"},"n":{"type":"integer"}}}`
	fetch := &hq{
		latest:   map[string]json.RawMessage{"RepairOrder": json.RawMessage(v3)},
		versions: map[string]json.RawMessage{"RepairOrder/v1": json.RawMessage(v1), "RepairOrder/v2": json.RawMessage(v2)},
	}
	cache := memoryCache{}
	c := schema.NewCatalogue(fetch, cache)
	ctx := context.Background()
	get := func(c *schema.Catalogue, version string) *schema.Table {
		t.Helper()
		table, err := c.Version(ctx, "order", version)
		if err != nil {
			t.Fatal(err)
		}
		return table
	}
	one, two, three := get(c, "v1"), get(c, "v2"), get(c, "v3")
	if one != two || one == three || one != get(c, "v1") {
		t.Error("layouts are not shared as they should be")
	}
	if diff := cmp.Diff([]string{"latest", "RepairOrder/v1", "RepairOrder/v2"}, fetch.asked); diff != "" {
		t.Error(diff)
	}
	fetch.asked = nil
	restarted := schema.NewCatalogue(fetch, cache)
	get(restarted, "v1")
	get(restarted, "v2")
	if diff := cmp.Diff([]string{"latest"}, fetch.asked); diff != "" {
		t.Errorf("after a restart: %s", diff)
	}
	if _, err := c.Version(ctx, "order", "v9"); err == nil {
		t.Error("an unknown version must be an error")
	}
}

func TestASchemaThatCanNotBeUsedHidesNoOther(t *testing.T) {
	good := `{"table":"order","modelVersion":"v1","primaryKeys":["id"],"properties":{"id":{"type":"string"}}}`
	fetch := &hq{latest: map[string]json.RawMessage{"RepairOrder": json.RawMessage(good), "Odd": json.RawMessage(`{"table":"odd"}`), "None": json.RawMessage(`7`)}}
	c := schema.NewCatalogue(fetch, memoryCache{})
	tables, err := c.Latest(context.Background())
	malformed := new(schema.MalformedError)
	if !errors.As(err, &malformed) || len(malformed.Objects) != 2 || malformed.Objects["Odd"] == nil || malformed.Objects["None"] == nil {
		t.Errorf("malformed: %v", err)
	}
	if len(tables) != 1 || tables["order"] == nil {
		t.Errorf("tables: %v", tables)
	}
	if table, err := c.Version(context.Background(), "order", "v1"); err != nil || table != tables["order"] {
		t.Errorf("the version of the good one: %v, %v", table, err)
	}
}
