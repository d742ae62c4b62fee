package schema_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
)

const orderV1 = `{"table":"order","modelVersion":"v1","primaryKeys":["companyId","id"],"required":["id","companyId","total"],
"properties":{"total":{"type":"integer"},"id":{"type":"string"},"companyId":{"type":"string"},
"status":{"type":"array","items":{"type":"string","enum":["a","b"]}},"tags":{"type":"array","items":{"type":"string"}},
"createdDate":{"type":"string","format":"date-time","nullable":true},
"meta":{"type":"object","additionalProperties":true,"$comment":"free form"},
"taxed":{"type":"boolean"},"rate":{"type":"number","deprecated":true},"odd":{"type":"something new"}}}`

func TestDecode_OrdersKeysFirstThenByName(t *testing.T) {
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

func TestDecode_NeedsAKeyOrAnID(t *testing.T) {
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

// hq is a fetcher that counts its requests.
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

func TestCatalogue_AsksOncePerVersionAndSharesLayouts(t *testing.T) {
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

func TestLatest_AMalformedSchemaHidesNoOther(t *testing.T) {
	good := `{"table":"order","modelVersion":"v1","primaryKeys":["id"],"properties":{"id":{"type":"string"}}}`
	fetch := &hq{latest: map[string]json.RawMessage{
		"RepairOrder": json.RawMessage(good), "Odd": json.RawMessage(`{"table":"odd"}`),
		"None": json.RawMessage(`7`),
	}}
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

// TestReserved checks that reserved names are recognised in any case, and that similar names are
// not.
func TestReserved(t *testing.T) {
	for name, want := range map[string]bool{
		"_eds_checkpoint": true, "_EDS_CHECKPOINT": true, "_Eds_x": true, "_eds_": true, "_ed\u017f_op": true,
		"": false, "_eds": false, "_": false, "eds_checkpoint": false, "_edsel": false, "__eds_op": false, "order_eds_": false,
		"_ed": false, "\xff_eds_": false,
	} {
		if got := schema.Reserved(name); got != want {
			t.Errorf("Reserved(%q) = %v", name, got)
		}
	}
}

// TestCatalogue_RefusesReservedNames: a table or column with a reserved name is omitted, and
// changes of it can never be applied, whatever name HQ states in the schema.
func TestCatalogue_RefusesReservedNames(t *testing.T) {
	const key = `"primaryKeys":["id"],"properties":{"id":{"type":"string"}`
	fetch := &hq{latest: map[string]json.RawMessage{
		"order":      json.RawMessage(`{"table":"order","modelVersion":"1",` + key + `}}`),
		"checkpoint": json.RawMessage(`{"table":"_EDS_Checkpoint","modelVersion":"1",` + key + `}}`),
		"column":     json.RawMessage(`{"table":"column","modelVersion":"1",` + key + `,"_Eds_version":{"type":"string"}}}`),
		"keyed": json.RawMessage(`{"table":"keyed","modelVersion":"1","primaryKeys":["_eds_row"],` +
			`"properties":{"_eds_row":{"type":"string"}}}`),
	}}
	fetch.versions = map[string]json.RawMessage{
		"order/2":  json.RawMessage(`{"table":"order","modelVersion":"2",` + key + `,"_eds_op":{"type":"string"}}}`),
		"column/1": fetch.latest["column"],
	}
	c := schema.NewCatalogue(fetch, memoryCache{})
	tables, err := c.Latest(t.Context())
	malformed := new(schema.MalformedError)
	if !errors.As(err, &malformed) || len(malformed.Objects) != 3 || len(tables) != 1 || tables["order"] == nil {
		t.Fatalf("%d tables, error %v", len(tables), err)
	}
	for object, err := range malformed.Objects {
		if !errors.Is(err, schema.ErrReserved) {
			t.Errorf("%s: %v", object, err)
		}
	}
	for _, v := range [][2]string{{"_eds_load", "1"}, {"_EDS_LOAD", ""}, {"order", "2"}, {"column", "1"}} {
		asked := len(fetch.asked)
		_, err := c.Version(t.Context(), v[0], v[1])
		if !errors.Is(err, schema.ErrReserved) || fault.Of(err) != fault.Poison {
			t.Errorf("version %q of %q: %v", v[1], v[0], err)
		}
		if schema.Reserved(v[0]) && len(fetch.asked) != asked {
			t.Errorf("HQ was asked for %q", v[0])
		}
	}
}
