package shop

import (
	"strconv"
	"strings"
)

// These lists are the vocabulary of generated text. They are short, but contain every kind of real
// text that causes trouble in software.
var (
	givenNames = []string{
		"Ana", "Bob", "Chloé", "Dmitri", "Eoin", "Fátima", "Günther", "Hana", "İbrahim", "José", "Kwame", "Łukasz", "María-José", "Ngọc",
		"Óscar",
		"Priya", "Quinn", "Renée", "Søren", "Þóra", "Umut", "Václav", "Wei", "Xóchitl", "Yuki", "Zoë", "李娜", "太郎", "Олена", "محمد",
		"D'Angelo", "Jo",
	}
	familyNames = []string{
		"O'Brien", "Smith", "Müller", "García Márquez", "Nguyễn", "van der Berg", "Åkesson", "Dvořák", "Yılmaz", "Kowalski", "St. John",
		"Lee", "王", "山田",
		"Іваненко", "Null", "Test", "O’Neill", `"Ace" Johnson`, "Smith-Jones", "de la Cruz", "Ó Súilleabháin", "Brandt", "Silva", "Patel",
		"Haddad", "Kim",
	}
	firms = []string{
		"Acme Fleet, Inc.", "Bäckerei Schröder GmbH", "Café Olé", "Dunder & Sons", `The "Quick" Courier Co.`, "Nordisk Frakt AS",
		"株式会社さくら運輸",
		"O'Hara Plumbing", "R\\D Labs", "São Paulo Táxis Ltda", "50% Off Rentals", "A_B Testing LLC", "Ünlü Nakliyat",
	}
	streets = []string{
		"Main St", "Élysée Ave", "Straße des 17. Juni", "O'Farrell St", "Calle 8 #12-34", "King's Rd", "桜通り", "5th Avenue, Apt. \"B\"",
		"Plaça de l'Àngel", "Highway 61",
	}
	cities = []string{
		"Denver", "München", "São Paulo", "Kraków", "Saint-Étienne", "東京", "Reykjavík", "Winston-Salem", "Coeur d'Alene", "Malmö",
		"القاهرة", "Hanoi",
	}
	makes = []string{
		"Ford", "Citroën", "Škoda", "Toyota", "Mercedes-Benz", "Chevrolet", "BYD 比亚迪", "Lada (ВАЗ)", "Subaru", "Hyundai",
		"Land Rover", "RAM",
	}
	models = []string{
		"F-150", "2CV", "Octavia", "Corolla", "Sprinter 2.1 CDI", "Silverado 1500", "海豚", "Niva 4x4", "Outback", "IONIQ 5",
		"Defender 110", "Model \"T\"",
	}
	colors = []string{"black", "white", "silver", "rouge métallisé", "British racing green", "azul", "灰色", "two-tone (red/white)"}
	works  = []string{
		"Oil & filter change", "Brake pads, front", "Brake discs 12\" rear", "Timing belt", "Diagnose check-engine light",
		"Tyre rotation", "Wheel alignment ±0.5°",
		"A/C recharge", "Battery replacement", "Klimaanlage prüfen", "車検整備", "Coolant flush", "Suspension: ball joints",
		"Transmission service", "Clutch kit",
	}
	partNames = []string{
		"5W-30 1qt", "Oil filter Ø76", "Brake pad set", "Wiper blade 22\"", "Spark plug", "Ölfilter 5µ", "ブレーキパッド", "Coolant 50/50",
		"Air filter", "Cabin filter",
		"Bulb H7 12V", "Serpentine belt", "Tire 205/55R16", "Valve stem", "Gasket O-ring", "Fuse 10A", "Battery 70Ah", "Hose clamp 3/4\"",
		"Lug nut M12x1.5", "Rotor 300mm",
	}
	brands  = []string{"Bosch", "Mann+Hummel", "Brembo", "NGK", "Valvoline", "Motul®", "デンソー", "AC/Delco", "Kraft's Own"}
	remarks = []string{
		"Customer hears a squeak when braking.", "Please call before doing any work > $200.", "Keys in the drop box 🔑",
		"Won't start when cold ❄️ – battery?",
		"He said: \"it just stopped\".", "It's the 3rd time this year…", "Prüfen: Öl, Bremsen, Licht", "左前タイヤの空気圧が低い",
		"Rattle @ 60–70 km/h; see photo", "C:\\photos\\IMG_0042.jpg",
		"'; DROP TABLE orders; --", "naïve façade, 100% ok", "null", "0", "", " ", "Ready 👍🏽👩‍🔧", "tab\there", "Line one\nLine two",
		"CR\r\nLF", "<b>bold</b> & <i>more</i>", "$$not a quote$$",
		"2024-02-30T25:61:00Z", "{\"looks\":\"like json\"}", "Ελέγξτε τα φρένα", "تحقق من الفرامل", "ตรวจเบรก", "a\u0301 is not á",
		"zero\u200bwidth", "1e400",
	}
	tags = []string{
		"fleet", "vip", "warranty", "follow up", "no-show", "très bon client", "現金のみ", "it's complicated", "back\\slash", "quote\"d", "",
	}
)

func firstName(g *generator, dst []byte) []byte { return quoted(dst, pick(g, givenNames)) }
func lastName(g *generator, dst []byte) []byte  { return quoted(dst, pick(g, familyNames)) }

func email(g *generator, dst []byte) []byte {
	dst = append(dst, '"')
	for range 5 + g.IntN(6) {
		dst = append(dst, 'a'+byte(g.IntN(26)))
	}
	dst = strconv.AppendInt(append(dst, '+'), int64(g.IntN(1000)), 10)
	return append(dst, `@example.com"`...)
}

func address(g *generator, dst []byte) []byte {
	return quoted(dst, strconv.Itoa(1+g.IntN(9999))+" "+pick(g, streets))
}

// remark generates a short text, sometimes with two lines.
func remark(g *generator, dst []byte) []byte {
	s := pick(g, remarks)
	if g.percent(20) {
		s += "\n" + pick(g, remarks)
	}
	return quoted(dst, s)
}

// longRemark returns a maker of remarks. On average, one remark is long in every oneIn remarks. The
// second parameter is the approximate maximum size of a remark in bytes. A long remark has at least
// half of that size.
func longRemark(oneIn, most int) maker {
	return func(g *generator, dst []byte) []byte {
		if g.IntN(oneIn) != 0 {
			return remark(g, dst)
		}
		n := most/2 + g.IntN(most/2)
		var b strings.Builder
		for b.Len() < n {
			b.WriteString(pick(g, remarks))
			b.WriteString(pick(g, []string{" ", "\n", "\n\n", " — "}))
		}
		return quoted(dst, b.String())
	}
}

// settings generates an object that is flat, nested or empty, or that has JSON text in its
// strings.
func settings(g *generator, dst []byte) []byte {
	switch g.IntN(6) {
	case 0:
		return append(dst, "{}"...)
	case 1:
		return append(dst, `{"payload":"{\"inner\":\"a \\\"quoted\\\" word\",\"n\":[1,2,{\"deep\":null}]}","version":2}`...)
	case 2:
		dst = append(dst, `{"big":`...)
		dst = anyInteger(g, dst)
		dst = append(dst, `,"ratio":`...)
		dst = decimal(-1, 1, 15)(g, dst)
		dst = append(dst, `,"flags":[true,false,null,1.50,-2e3],"escaped":"caf\u00e9 \ud83d\ude97\u2028 a\/b",`...)
		return append(dst, `"é":"ü","a.b":{"c/d":{"e\"f":[[],[[]],{}]}}}`...)
	case 3:
		dst = append(dst, `{"source":`...)
		dst = oneOf("web", "phone", "walk-in", "kiosk 📱")(g, dst)
		dst = append(dst, `,"utm":{"campaign":`...)
		dst = remark(g, dst)
		dst = append(dst, `,"clicks":`...)
		dst = between(0, 99)(g, dst)
		return append(dst, `}}`...)
	default:
		dst = append(dst, `{"sms":`...)
		dst = chance(50)(g, dst)
		dst = append(dst, `,"email":`...)
		dst = chance(50)(g, dst)
		dst = append(dst, `,"locale":`...)
		dst = oneOf("en-US", "de-DE", "ja-JP", "pt-BR")(g, dst)
		return append(dst, '}')
	}
}

// list returns a maker of arrays. The first parameter is the maximum number of elements of an
// array.
func list(most int, element maker) maker {
	return func(g *generator, dst []byte) []byte {
		dst = append(dst, '[')
		for i := range g.IntN(most + 1) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = element(g, dst)
		}
		return append(dst, ']')
	}
}

// photo generates an object that describes a photo, as an element of a list.
func photo(g *generator, dst []byte) []byte {
	dst = append(dst, `{"url":"https://img.example.com/`...)
	dst = strconv.AppendUint(dst, g.Uint64(), 36)
	dst = append(dst, `.jpg?w=640&h=480","caption":`...)
	dst = remark(g, dst)
	dst = append(dst, `,"bytes":`...)
	dst = between(1_000, 9_000_000)(g, dst)
	return append(dst, '}')
}
