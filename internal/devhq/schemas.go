package devhq

import "net/http"

func (h *HQ) latestSchemas(r *http.Request) (any, error) {
	if _, err := h.authorize(r); err != nil {
		return nil, err
	}
	return h.shop.LatestSchemas(), nil
}

func (h *HQ) schemaVersion(r *http.Request) (any, error) {
	if _, err := h.authorize(r); err != nil {
		return nil, err
	}
	object, version := r.PathValue("object"), r.PathValue("version")
	text, ok := h.shop.Schema(object, version)
	if !ok {
		return nil, httpErrorf(http.StatusNotFound, "there is no version %q of the schema of %q", version, object)
	}
	return text, nil
}
