// Says which settings the plugin takes, and checks them before they take effect.
//
// This one takes `reply-url`, an https URL. All settings are strings.

const SCHEMA = {
  type: "object",
  properties: {
    "reply-url": { type: "string", format: "uri", description: "Where answers are sent" },
  },
};

export const about = {
  configSchema() {
    return JSON.stringify(SCHEMA);
  },

  checkConfig(config) {
    const url = JSON.parse(config)["reply-url"];
    if (url === undefined || (typeof url === "string" && url.startsWith("https://"))) {
      return [];
    }
    return [{ pointer: "/reply-url", message: "has to begin with https://", extra: null }];
  },
};
